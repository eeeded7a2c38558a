"""Recipes: how a model is trained, one method a file."""
