"""The training loop that every recipe goes through."""
