"""How good a model is: held-out loss, generation metrics, base against tuned, the report."""
