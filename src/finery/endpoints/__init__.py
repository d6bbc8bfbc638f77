"""Endpoints, deployments, keys, traffic; replicas as processes."""
