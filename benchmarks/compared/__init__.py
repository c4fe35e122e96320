"""The same training in skorch, Ignite, Keras and ours: `python -m benchmarks.compared`."""
