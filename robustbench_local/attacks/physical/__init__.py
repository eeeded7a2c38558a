"""Physical attacks in simulation: stickers and patches, optimized over many views."""
