"""Attacks of other libraries behind our contract."""
