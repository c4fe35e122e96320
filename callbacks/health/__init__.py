"""Find broken training: what is measured, the rules that judge it, and the findings."""
