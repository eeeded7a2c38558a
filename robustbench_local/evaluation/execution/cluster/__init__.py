"""Execution of a plan on a Ray cluster: ranges of a cell's images are tasks; this process commits them."""
