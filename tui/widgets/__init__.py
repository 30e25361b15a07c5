"""One file per widget family."""
