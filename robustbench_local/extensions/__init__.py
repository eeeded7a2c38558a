"""External code: attacks, defenses, certificates, models and data that are not part of this package.

There are two ways in: ``python:FILE.py:NAME``, a file that runs only if the user allows it, and the entry
points of installed distributions.
"""
