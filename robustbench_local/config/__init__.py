"""What users write and hand in: files, and how they are read."""
