"""Certificates by bound propagation: IBP, CROWN-IBP and CROWN."""
