"""The OpenAI shapes: an endpoint as a base URL for OpenAI's own clients."""
