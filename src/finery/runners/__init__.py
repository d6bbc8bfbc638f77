"""Where a step's process runs: one protocol, this machine first."""
