"""Probes: queries to a model before any attack that check its answers and gradients."""
