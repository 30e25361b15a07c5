"""The interface in a browser: one process per session behind a small server on loopback."""
