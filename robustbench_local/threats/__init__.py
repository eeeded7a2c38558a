"""What may happen to an image, and how its budget is written."""
