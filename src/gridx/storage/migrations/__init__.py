"""Alembic's scripts: `env` joins them to a connection, `versions` holds one file a change."""
