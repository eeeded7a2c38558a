"""Checks of labelled images before anything is trained or measured on them."""
