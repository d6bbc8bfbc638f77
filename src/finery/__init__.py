"""finery: from base model to fine-tuned chat model, on your own machines."""

__version__ = "0.1.0"
