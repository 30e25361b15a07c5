"""What workers share whose model lives in a server of its own, which they start, watch and end."""
