"""Execution of a plan: workers, batch sizes, progress and commits to the store."""
