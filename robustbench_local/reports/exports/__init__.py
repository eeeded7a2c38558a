"""A run in the forms of others: LaTeX tables, vector figures, a model card, entries of RobustBench."""
