"""Training in a grid and for ``rbl train``: data, weights and cache."""
