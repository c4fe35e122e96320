"""The words of a diagnosis: its reason with the numbers, and what to do."""
