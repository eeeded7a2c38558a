"""Questions to a model before any attack: whether its answers and gradients can be relied on."""
