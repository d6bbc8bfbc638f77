"""The studio: pages that show what happens in the workspace, and let a person do the next thing."""
