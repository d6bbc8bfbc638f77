"""Files that must be refused, or taken, with the reason: made on the spot, never stored."""
