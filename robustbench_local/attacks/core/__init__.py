"""The engine of the attacks, and the common parts of their searches."""
