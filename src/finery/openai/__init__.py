"""The OpenAI shapes."""
