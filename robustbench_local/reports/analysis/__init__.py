"""What follows from the evidence: doubts about images, disagreements between attacks, rulings of gates."""
