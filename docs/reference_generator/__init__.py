"""What writes the pages of docs/reference from the code; Sphinx's conf.py calls it before each build."""
