"""Columns of a table: their cells, what is counted of them, and the features they become."""
