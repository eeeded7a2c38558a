"""Analysis of the evidence: doubts about images, disagreements of attacks, verdicts of gates."""
