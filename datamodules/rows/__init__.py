"""Encoded rows of a table: made, kept in memory or on disk, and handed out in mini-batches."""
