"""The HTTP face: one ASGI app made from the modules' declarations. `app.create_app(headwater)` makes it."""
