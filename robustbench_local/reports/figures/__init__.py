"""The figures as PNG files: what matplotlib draws for the sections of a report."""
