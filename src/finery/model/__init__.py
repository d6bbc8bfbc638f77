"""A base model: find, load, attach LoRA, merge, save."""
