"""Black-box attacks, from scores or labels alone."""
