"""The modules: one package is one domain with its tables, verbs, routes, seeds and migrations."""
