"""The faults that tests/faults/torture.py provokes, one file per kind."""
