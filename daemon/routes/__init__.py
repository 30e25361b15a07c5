"""The daemon's own routes: its status and logs, and its keys and tokens."""
