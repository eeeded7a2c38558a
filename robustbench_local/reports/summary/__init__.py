"""The first lines of a report: the question and the answer."""
