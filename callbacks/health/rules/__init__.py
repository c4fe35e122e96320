"""Judge measured facts: one rule a fault, arithmetic only."""
