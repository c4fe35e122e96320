"""Kills real fits and studies at random moments, lets the same command go on, and compares with one left alone."""
