"""Hard-max attention with heads of size 2, by hulls of the keys: see `reference`."""
