"""Planning: a grid becomes a plan, and everything is loaded and checked before the first attack."""
