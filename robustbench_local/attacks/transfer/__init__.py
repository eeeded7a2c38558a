"""Attacks whose adversarial examples are made to transfer to other models."""
