"""Headwater: PostgreSQL is the one truth; the cache, the documents and the feed follow its change stream."""
