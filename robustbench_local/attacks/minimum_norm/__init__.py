"""Minimum-norm attacks: the nearest adversarial example, and curves over the radius."""
