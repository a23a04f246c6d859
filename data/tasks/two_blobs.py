"""Two blobs far apart in one image that agree in colour: what a model of its neighbourhood misses.

An image of S x S pixels is read row by row, one token a pixel. One blob stands at the top and one
at the bottom, squares of one colour before a background. With a `turn` the lower one's is not the
same but so many colours further on: an image that is all of one mood is then no answer.

In the row of a sequence the lower blob's pixels are masked, and asked: their colour follows from
that of the blob above, many rows before. A model that makes whole images is shown them with the
answers in their place (`whole`), and what it makes is judged by an exact rule (`judge`), so that no
distance between distributions has to be estimated.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np

from conf.schema import TOKENS, key
from data.meta import IGNORE
from data.tasks.draw import Draw
from data.tasks.task import numbered


class Verdict(NamedTuple):
    """What images amount to, bool `[N]` each."""

    formed: np.ndarray
    """Two blobs where there may be some, each of one colour, and background everywhere else."""
    agrees: np.ndarray
    """And their colours belong together."""


@dataclass(frozen=True)
class TwoBlobs:
    """See `data.tasks.task.Task`. The first symbol is the background, the last one the mask."""

    version: ClassVar[int] = 1
    has_separator: ClassVar[bool] = False
    colours: int = key(4, "colours of a blob", low=2, high=1000)
    size: int = key(2, "pixels of a blob's side", low=1, high=TOKENS)
    turn: int = key(0, "colours from the upper blob's to the lower one's", low=0, high=999)
    places: int = key(3, "places of a blob in each direction", low=1, high=TOKENS)

    @property
    def symbols(self) -> str:
        return numbered(self.colours + 2)

    def problems(self, length: int) -> Iterator[str]:
        side, band = math.isqrt(length), self.size + self.places - 1
        if side * side != length:
            yield f"data.length={length}: an image is square; {side**2} and {(side + 1) ** 2} are"
        elif side < 2 * band + 1:
            yield (
                f"data.length={length}: two blobs of {self.size} pixels and {self.places} places, "
                f"and a row between them, need {(2 * band + 1) ** 2}"
            )

    def sequences(self, draw: Draw, length: int) -> tuple[np.ndarray, np.ndarray]:
        side = math.isqrt(length)
        colours = 1 + draw.below(self.colours, 1)  # [N, 1]
        upper, lower = (self._blob(draw, side, first) for first in self._bands(side))
        inputs = np.where(upper, colours, np.where(lower, self.colours + 1, 0))
        return inputs, np.where(lower, self._partner(colours), IGNORE)

    @staticmethod
    def whole(inputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """The images `[N, T]` of rows: `inputs` with the answers where something is asked."""
        return np.where(targets == IGNORE, inputs, targets)

    def judge(self, images: np.ndarray) -> Verdict:
        """What images `[N, T]`, whoever made them, amount to."""
        side = math.isqrt(images.shape[1])
        grid = images.reshape(len(images), side, side)
        formed, found = np.ones(len(images), dtype=bool), []
        covered = np.zeros_like(grid, dtype=bool)
        for first in self._bands(side):
            rows = slice(first, first + self.size + self.places - 1)
            band = grid[:, rows].reshape(len(grid), -1)
            colour = band.max(axis=1)
            covered[:, rows] = True
            is_one = [
                ((band != 0) == place.reshape(side, side)[rows].reshape(-1)).all(axis=1)
                for place in self._every_place(side, first)
            ]
            formed &= np.any(is_one, axis=0) & (colour >= 1) & (colour <= self.colours)
            formed &= ((band == 0) | (band == colour[:, None])).all(axis=1)
            found.append(colour)
        formed &= ((grid == 0) | covered).all(axis=(1, 2))
        return Verdict(formed, formed & (self._partner(found[0]) == found[1]))

    def _partner(self, colours: np.ndarray) -> np.ndarray:
        """The colours of lower blobs, by those of the upper ones."""
        return (colours - 1 + self.turn) % self.colours + 1

    def _bands(self, side: int) -> tuple[int, int]:
        """The first row in which the upper blob, and the lower one, may stand."""
        return 0, side - (self.size + self.places - 1)

    def _blob(self, draw: Draw, side: int, first: int) -> np.ndarray:
        """Where a blob that may begin in row `first` stands in each image: bool `[N, T]`."""
        every = np.stack(list(self._every_place(side, first)))
        return every[draw.below(len(every), 1)[:, 0]]

    def _every_place(self, side: int, first: int) -> Iterator[np.ndarray]:
        """A blob in each of its places, of which the middle one is in the middle: bool `[T]`."""
        left = (side - (self.size + self.places - 1)) // 2
        for row in range(first, first + self.places):
            for column in range(left, left + self.places):
                grid = np.zeros((side, side), dtype=bool)
                grid[row : row + self.size, column : column + self.size] = True
                yield grid.reshape(-1)
