"""Watch the loss curves of a fit and say what became of it."""
