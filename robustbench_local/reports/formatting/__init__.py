"""Formatting of numbers, names and tables."""
