"""Ensembles of attacks: AutoAttack and its parts."""
