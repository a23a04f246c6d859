"""The faults that scripts/torture.py provokes, one file per kind."""
