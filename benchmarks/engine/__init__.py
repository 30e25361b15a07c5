"""The engine beside its peers: FastChat, `transformers serve` and llama.cpp, on the same weights."""
