"""From a grid to a plan: everything is loaded and checked before the first attack."""
