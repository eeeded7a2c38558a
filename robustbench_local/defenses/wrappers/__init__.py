"""Defenses that wrap a classifier: they change its images, or vote."""
