"""How the time of a run falls with the number of workers: simulated with the real queue, and measured."""
