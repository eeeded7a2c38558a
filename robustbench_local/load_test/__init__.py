"""Load tests of a served model: throughput, latency, behaviour over time, and accuracy under load."""
