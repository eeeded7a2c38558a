"""How reports write numbers, names and tables."""
