"""Attack strength as a number: how near each attack comes to the nearest known adversarial examples."""
