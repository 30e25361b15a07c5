"""What to load, evict, place and queue, as a pure function of state and event."""
