"""The long-running process and the workers that it looks after."""
