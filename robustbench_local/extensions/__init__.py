"""Code from outside: attacks, defenses, certificates, models and data that are not this package's own.

There are two ways in: ``python:FILE.py:NAME``, a file that runs only if the user allows it, and the entry
points of installed distributions.
"""
