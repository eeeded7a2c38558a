"""The first lines of a report: the question, the answer."""
