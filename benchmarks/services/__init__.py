"""Services: the same two GETs as each stack's documentation writes them, each a program of its own."""
