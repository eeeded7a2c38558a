"""Isolation: user models and user code run in child processes and within time limits."""
