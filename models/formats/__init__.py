"""Weights in the file formats of others, and how each is read and written."""
