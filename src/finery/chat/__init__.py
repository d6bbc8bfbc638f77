"""Conversations to tokens: read, validate, render with a loss mask, account, pack."""
