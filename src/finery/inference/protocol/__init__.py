"""What clients send to a replica and what they get back: OpenAI, Azure AI, Azure ML."""
