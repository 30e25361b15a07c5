"""OpenAI's requests put to workers that speak FastChat's wire, and their frames turned into OpenAI's answers."""
