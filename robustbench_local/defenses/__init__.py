"""Defenses: how a model is made harder to fool; each is a card in ``defenses/`` and a recipe here."""
