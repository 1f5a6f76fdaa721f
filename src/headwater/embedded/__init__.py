"""The embedded stores: PostgreSQL and Valkey from their wheels, for the first five minutes, for tests and examples."""
