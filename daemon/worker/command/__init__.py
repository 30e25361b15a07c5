"""The command engine: any OpenAI-compatible server that a command line starts, as a worker."""
