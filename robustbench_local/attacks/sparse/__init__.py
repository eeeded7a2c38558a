"""Attacks that change few pixels as they like (L0)."""
