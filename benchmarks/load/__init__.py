"""What large tables and long studies cost: `python -m benchmarks.load`."""
