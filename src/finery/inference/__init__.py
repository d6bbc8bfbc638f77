"""Answers from a model: batched and streamed generation with the renderer that trained it."""
