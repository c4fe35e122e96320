"""Read facts from a module, its loss and its batches while it trains."""
