"""The vLLM engine: vLLM's own server, from an environment of its own, as a worker."""
