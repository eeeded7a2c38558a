"""Threat models, and the perturbations, transformations and objects that they allow."""
