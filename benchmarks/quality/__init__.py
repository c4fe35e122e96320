"""How few errors `fit` makes with its defaults, beside others, on many tables: `python -m benchmarks.quality`."""
