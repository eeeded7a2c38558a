"""What attacks share: searches that do not belong to one of them."""
