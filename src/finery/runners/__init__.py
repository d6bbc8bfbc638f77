"""Where a step's process runs: one protocol, local first."""
