"""Trainings with one planted fault, each beside a healthy twin: who names the fault, and who cries wolf?

python -m benchmarks.faults --split dev --detector ours --jobs 2
"""
