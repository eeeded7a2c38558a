"""Running a plan: workers, batch sizes, progress, and what is committed."""
