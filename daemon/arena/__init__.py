"""Battles, votes and the board: the arena's part of the daemon."""
