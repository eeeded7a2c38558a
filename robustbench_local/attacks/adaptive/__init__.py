"""Attacks that read the model first: its inspection, and gradients where its own are of no use."""
