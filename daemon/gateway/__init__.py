"""The OpenAI routes: pick a worker and relay its bytes."""
