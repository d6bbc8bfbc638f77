"""Endpoints, their deployments, the replicas behind them, and the gateway in front of them."""
