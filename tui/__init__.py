"""The terminal interface; it talks to the daemon through fcd's client only."""
