"""Conversations that the daemon keeps and lets models go on with."""
