"""The daemon's SQLite database."""
