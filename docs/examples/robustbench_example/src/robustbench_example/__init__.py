"""An attack, a defense, a certificate, a model and data for robustbench_local."""
