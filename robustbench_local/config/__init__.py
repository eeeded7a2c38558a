"""Files that users write: their location, parsing and validation."""
