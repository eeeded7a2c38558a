"""Defenses: methods that make a model more robust; each has a card in ``defenses/`` and a class here."""
