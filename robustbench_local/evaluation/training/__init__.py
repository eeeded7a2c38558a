"""Training inside a grid and for rbl train: data, weights, cache."""
