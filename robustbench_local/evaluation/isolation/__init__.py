"""Running a user's model or code in child processes and within time limits."""
