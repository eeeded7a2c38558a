"""Certificates by randomized smoothing."""
