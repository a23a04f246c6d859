"""Prepared corpora that are damaged or forged, and hostile sources and tokenizers.

A trial gives one such thing to what reads it in a run. Right is the corpus that was prepared, to
the last bit and with one sentence where it had to be made again, or one message.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from pathlib import Path

from tests.faults.prepared import Prepared
from tests.faults.sources import source
from tests.faults.tokenizers import tokenizer
from tests.faults.trial import Trial


def trials(count: int, seed: int, folder: Path) -> Iterator[Trial]:
    """`count` trials below `folder`: half of prepared corpora, a third of sources, tokenizers."""
    draw = random.Random(seed)
    lab = Prepared(folder / "prepared")
    for number in range(count):
        place = folder / f"{number:05d}"
        place.mkdir()
        kind = number % 6
        own = random.Random(draw.getrandbits(64))
        if kind in (0, 2, 4):
            yield lab.trial(place, own)
        elif kind in (1, 3):
            yield source(place, own)
        else:
            yield tokenizer(place, own)
        shutil.rmtree(place, ignore_errors=True)
