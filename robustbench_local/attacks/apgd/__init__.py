"""APGD: its searches under Linf, L2 and L1, and its targeted form."""
