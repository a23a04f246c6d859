"""RWKV-LM's order of samples, against its own formula, retyped here."""

from __future__ import annotations

import math

import numpy as np
import pytest

from conf.schema import DataConf
from core.errors import UserError
from data.magic_prime import is_prime, magic_prime, window_of
from data.mixture import order_of
from data.order import WindowOrder
from tests.data.test_mixture import corpus_of


def theirs(number: int, prime: int, ctx_len: int) -> int:
    """First token of sample `number` in RWKV-LM, `__getitem__` of RWKV-v7/train_temp."""
    ii = 1 + number  # epoch * samples_per_epoch + idx * world_size + rank
    factor = (math.sqrt(5) - 1) / 2
    factor = int(prime * factor)
    return ((factor * ii * ii * ii) % prime) * ctx_len


def sieve(below: int) -> set[int]:
    found = np.ones(below, dtype=bool)
    found[:2] = False
    for number in range(2, math.isqrt(below) + 1):
        found[number * number :: number] &= not found[number]
    return set(np.flatnonzero(found).tolist())


def test_primes_are_those_of_the_sieve() -> None:
    assert {number for number in range(20_000) if is_prime(number)} == sieve(20_000)
    # Strong pseudoprimes to the bases 2, 3, 5 and 7, and to the first nine primes.
    assert not is_prime(3_215_031_751) and not is_prime(3_825_123_056_546_413_051)
    assert is_prime(2**61 - 1) and not is_prime((2**31 - 1) * (2**61 - 1))


@pytest.mark.parametrize(
    ("tokens", "length", "prime"),
    [  # from RWKV-LM's own scripts for MiniPile and the Pile
        (1_498_226_207, 512, 2_926_181),
        (332_115_325_534, 4096, 81_082_817),
    ],
)
def test_the_prime_is_the_one_that_rwkv_lm_computes(tokens: int, length: int, prime: int) -> None:
    assert magic_prime(tokens, length) == prime
    assert magic_prime(tokens, length, prime) == prime


@pytest.mark.parametrize("prime", [5, 2_926_181, 81_082_817, 2_147_483_693, 10**12 + 61])
def test_windows_are_those_of_rwkv_lm(prime: int) -> None:
    rows = np.array([0, 1, 2, 7, 40_319, 40_320, prime - 1, prime, 3 * prime + 5])
    expected = [theirs(row, prime, 512) for row in rows.tolist()]
    assert (window_of(rows, prime) * 512).tolist() == expected


def test_processes_of_rwkv_lm_read_the_rows_of_our_batches() -> None:
    """Each micro-batch of theirs is one of ours, over all processes."""
    world, micro, prime = 2, 3, 101
    index = WindowOrder(102 * 8 + 1, 8, world * micro, "f", 0, prime=prime)
    epoch_steps = 10
    for epoch, step in ((0, 0), (0, 4), (2, 7)):
        read = {
            theirs(epoch * epoch_steps * world * micro + idx * world + rank, prime, 8)
            for rank in range(world)
            for idx in range(step * micro, (step + 1) * micro)
        }
        assert set(index.starts(epoch * epoch_steps + step).tolist()) == read


def test_a_prime_visits_each_of_its_windows_once() -> None:
    tokens, length = 8 * 60 + 3, 8
    prime = magic_prime(tokens, length)
    assert prime == 59
    index = WindowOrder(tokens, length, 1, "f", 0, prime=prime)
    starts = [int(index.starts(step)[0]) for step in range(prime)]
    assert sorted(starts) == [8 * window for window in range(prime)]
    assert [int(index.starts(step + prime)[0]) for step in range(prime)] == starts
    assert max(starts) + length + 1 <= tokens


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        (57, "not a prime"),
        (61, "1 modulo 3"),
        (47, "not a little below"),
        (71, "not a little below"),
    ],
)
def test_a_prime_that_rwkv_lm_would_not_take_is_refused(given: int, problem: str) -> None:
    with pytest.raises(UserError, match=f"{problem}.*largest that fits is 59"):
        magic_prime(8 * 60 + 3, 8, given)
    with pytest.raises(UserError, match="3 windows or more"):
        magic_prime(20, 8)


def test_the_configuration_chooses_the_order() -> None:
    corpus = corpus_of("f", 1001)
    conf = DataConf(corpus="text", length=8, batch_size=4)
    plain = order_of(corpus, conf, 0)
    conf.order = "magic_prime"
    magic = order_of(corpus, conf, 0)
    assert isinstance(magic, WindowOrder) and magic.prime == 113
    assert magic.order_hash(9) == order_of(corpus, conf, 7).order_hash(9)  # no seed
    assert magic.order_hash(9) != plain.order_hash(9)
    conf.magic_prime = 113
    assert order_of(corpus, conf, 0) == magic
