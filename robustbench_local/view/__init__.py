"""A local web application over a folder of runs: list, trends, comparison, and every image."""
