"""Loggers of our own for a Trainer."""
