"""robustbench_local: how often is a classifier right when someone works against it, and how sure are we?"""
