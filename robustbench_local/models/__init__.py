"""Sources of classifiers: libraries, checkpoints, Python files, services and the shipped zoo."""
