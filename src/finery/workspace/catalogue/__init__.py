"""What registries are shipped with, as rows of YAML."""
