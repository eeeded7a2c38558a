"""How well ``rbl run --dry-run`` predicts: passes, CPU time and memory beside what the run then takes."""
