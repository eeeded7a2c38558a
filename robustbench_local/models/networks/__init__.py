"""The package's own networks."""
