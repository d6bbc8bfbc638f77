"""The pipeline's steps: one spec (YAML) and one entry point each."""
