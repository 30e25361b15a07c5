"""OpenAI's Responses API, as a translation onto chat completions: so every kind of worker answers it."""
