"""Workers that a cluster places: Ray decides where they run and brings them back; requests never pass through it."""
