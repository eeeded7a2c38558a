"""Attacks of other libraries behind the interface of this package."""
