"""Square: score-based random search."""
