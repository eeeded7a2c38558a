"""The cost of a plan on other hardware, extrapolated from what was measured here."""
