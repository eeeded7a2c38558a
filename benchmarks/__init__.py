"""Side by side with the peers: ratios, passes and verdicts. ``python -m benchmarks --help``.

The protocol: one thread, process time, arms interleaved A B A B in one process, at least three rounds,
medians. Seconds of one machine say nothing about another, so that on a CPU only ratios are written down.
"""
