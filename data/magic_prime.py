"""RWKV-LM's order of samples: a cubic permutation of the windows by a prime (`data.order`).

Its data set (RWKV-v5 and RWKV-v7 `src/dataset.py`, Bo Peng) lays windows of `length` tokens one
after the other from the first token on. Sample number n, counted from 1 over the whole training,
whatever the number of processes, is window `factor * n**3 mod p` with `factor` the whole part of
`p * (sqrt(5) - 1) / 2`. The prime p is 2 modulo 3, so that every number has exactly one cube root
modulo p: p samples in a row visit each of the first p windows once.
"""

from __future__ import annotations

import math

import numpy as np

from core.errors import UserError

KEY = "data.order=magic_prime"
_WITNESSES = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37)
_NARROW = 1 << 31  # primes below it keep every product within 64 bits


def window_of(rows: np.ndarray, prime: int) -> np.ndarray:
    """The window that each row reads, for rows counted from 0: int64 `[N]`."""
    factor = int(prime * ((math.sqrt(5) - 1) / 2))  # a double, as there: the rounding counts
    if prime < _NARROW:
        p, n = np.uint64(prime), (rows.astype(np.uint64) + np.uint64(1)) % np.uint64(prime)
        return (n * n % p * n % p * np.uint64(factor) % p).astype(np.int64)
    windows = [factor * pow(row + 1, 3, prime) % prime for row in rows.tolist()]
    return np.array(windows, dtype=np.int64)


def magic_prime(tokens: int, length: int, given: int = 0) -> int:
    """The prime for so many tokens in windows of `length`: `given`, or else the largest that fits.

    That is the largest which is 2 modulo 3 and not above `tokens // length - 1`, as RWKV-LM's
    `compute_magic_prime.py` finds it. Raises `UserError` if `given` is not one with which RWKV-LM
    trains (a prime, 2 modulo 3, above 0.9 and not above 1 times `tokens // length`), reads beyond
    the last token, or there is none.
    """
    slots = tokens // length
    if not given:
        for candidate in range(slots - 1, 1, -1):
            if candidate % 3 == 2 and is_prime(candidate):
                return candidate
        raise UserError(
            f"{KEY} needs 3 windows or more, and {tokens:,} tokens have {slots} of "
            f"data.length={length}: lower it, or give more text"
        )
    problem = None
    if not is_prime(given):
        problem = "not a prime"
    elif given % 3 != 2:
        problem = f"{given % 3} modulo 3, and only for 2 does it visit every window"
    elif not 0.9 < given / max(slots, 1) <= 1 or given * length + 1 > tokens:
        problem = f"not a little below the {slots:,} windows that {tokens:,} tokens have"
    if problem:
        best = magic_prime(tokens, length)
        raise UserError(
            f"data.magic_prime={given}: {problem} (with data.length={length} the largest that "
            f"fits is {best})"
        )
    return given


def is_prime(number: int) -> bool:
    """Whether `number`, below 3 * 10**24, is a prime (Miller and Rabin; bases: Sorenson 2015)."""
    if number < 2:
        return False
    for small in _WITNESSES:
        if number % small == 0:
            return number == small
    twos = ((number - 1) & (1 - number)).bit_length() - 1
    odd = (number - 1) >> twos
    for base in _WITNESSES:
        x = pow(base, odd, number)
        if x in (1, number - 1):
            continue
        for _ in range(twos - 1):
            x = x * x % number
            if x == number - 1:
                break
        else:
            return False
    return True
