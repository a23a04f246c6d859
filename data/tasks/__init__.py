"""Synthetic tasks: sequences that follow from a seed, are never stored, and have known answers."""
