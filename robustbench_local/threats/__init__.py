"""What may happen to an image."""
