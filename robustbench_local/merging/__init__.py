"""Merging of runs whose parts were computed apart: on other machines, or after one another."""
