"""The networks that the package knows by name."""
