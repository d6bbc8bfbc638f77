"""What a workspace knows: store, assets, registries, data, computes, tracking."""
