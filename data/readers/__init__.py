"""Readers: from files, by what they hold, to documents."""
