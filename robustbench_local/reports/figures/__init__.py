"""Matplotlib figures for the sections of a report."""
