"""Evaluation: from a grid file to verified outcomes in a store."""
