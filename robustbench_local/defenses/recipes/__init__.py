"""Training recipes, one method per file."""
