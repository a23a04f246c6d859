"""How much of an alignment lies on the right word of the source: for German number words.

    python -m benchmarks.alignment_mass runs/translation/number_words-additive-s0

`model.attention=additive` and `data=number_words` with German and English, as the recipe
`translation` trains them. What belongs together is known: the same number word in the same place
of the same number, as "ein" and "one" of 21,000. For every letter of an English number word, its
weights on the letters of the German one are added up. Beside it the share that equal weights on
all letters of the source would have.
"""

from __future__ import annotations

import argparse
import random
import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from core.errors import UserError
from data import tokenizers
from data.tasks.translations import END, SEPARATOR, words
from data.text import TextTokenizer
from models import load

SMALL = {
    "de": "null ein zwei drei vier fünf sechs sieben acht neun zehn elf zwölf dreizehn vierzehn "
    "fünfzehn sechzehn siebzehn achtzehn neunzehn",
    "en": "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
    "fifteen sixteen seventeen eighteen nineteen",
}
TENS = {
    "de": "zwanzig dreißig vierzig fünfzig sechzig siebzig achtzig neunzig hundert",
    "en": "twenty thirty forty fifty sixty seventy eighty ninety hundred",
}
MORE = {"de": {"eins": 1, "tausend": 1000}, "en": {"thousand": 1000}}
MOST = 99_999
NEAR = 1  # letter to each side: the encoder's states know their neighbours


@dataclass(frozen=True)
class Mass:
    """Means over letters of English number words."""

    letters: int
    inside: float
    """Mass on the aligned word."""
    near: float
    """Mass on it and `NEAR` letters to each side."""
    chance: float
    """What equal weights have on the aligned word."""
    best: float
    """Share of the letters whose largest weight is on it."""


def parts(text: str, language: str) -> dict[tuple[bool, bool, int], range]:
    """The number words of a number up to `MOST`: the letters `range` of each by whether it counts
    thousands, whether it counts hundreds, and its value."""
    values = {word: number for number, word in enumerate(SMALL[language].split())}
    values |= {word: 20 + 10 * place for place, word in enumerate(TENS[language].split())}
    values |= MORE[language]
    longest_first = "|".join(sorted(values, key=len, reverse=True))
    found = [(one.span(), values[one.group()]) for one in re.finditer(longest_first, text)]
    numbers = [number for _, number in found]
    thousand = numbers.index(1000) if 1000 in numbers else -1
    return {
        (place < thousand, numbers[place + 1 : place + 2] == [100], number): range(*span)
        for place, (span, number) in enumerate(found)
    }


def measure(model: Any, tokenizer: TextTokenizer, numbers: Sequence[int]) -> Mass:
    """The mass of a model whose vocabulary is that of `data=number_words`, on these numbers."""
    inside, near, chance, best = [], [], [], []
    for number in numbers:
        source, target = words(number, "de"), words(number, "en")
        tokens = tokenizer.encode(source + SEPARATOR + target + END)
        weights = model.aligned(torch.tensor([tokens]))[0]
        of_source = parts(source, "de")
        for name, letters in parts(target, "en").items():
            right = of_source[name]
            around = slice(max(right.start - NEAR, 0), right.stop + NEAR)
            for step in letters:  # the row of the token before a letter chooses it
                row = weights[step]
                inside.append(row[right.start : right.stop].sum().item())
                near.append(row[around].sum().item())
                chance.append(len(right) / len(source))
                best.append(float(row.argmax().item() in right))
    means = [statistics.fmean(each) for each in (inside, near, chance, best)]
    return Mass(len(inside), *means)


def main() -> None:
    """Print one line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="folder of a run of data=number_words")
    parser.add_argument("--numbers", type=int, default=300, help="drawn without repetition")
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    numbers = random.Random(asked.seed).sample(range(MOST + 1), asked.numbers)
    try:
        model: Any = load(asked.run, torch.device("cpu"))
        mass = measure(model.eval(), tokenizers.load(asked.run / "tokenizer.json"), numbers)
    except UserError as error:
        parser.error(str(error))
    print(
        f"{mass.letters:,} letters of {len(numbers):,} numbers: {mass.inside:.1%} of the mass on "
        f"the aligned word, {mass.near:.1%} with {NEAR} letter to each side, equal weights "
        f"{mass.chance:.1%}; the largest weight on it for {mass.best:.1%}"
    )


if __name__ == "__main__":
    main()
