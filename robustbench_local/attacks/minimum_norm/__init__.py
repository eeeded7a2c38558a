"""Minimum-norm attacks: the nearest adversarial example, and robustness curves over the radius."""
