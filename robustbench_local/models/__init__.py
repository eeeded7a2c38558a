"""Where classifiers come from: libraries, checkpoints, Python files and the shipped zoo."""
