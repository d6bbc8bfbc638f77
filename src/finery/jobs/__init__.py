"""Durable pipelines: states, queue by capacity, step reuse, recovery."""
