"""Show progress and the last word on the terminal."""
