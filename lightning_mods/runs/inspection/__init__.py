"""What one looks at after a fit: what columns count, how sure predictions are, where they err."""
