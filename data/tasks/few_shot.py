"""Few-shot classification: a few labelled points of each cluster, then points without a label.

The synthetic form of the task of SNAIL (Mishra et al. 2018, arXiv 1707.03141) and of matching
networks before it: the clusters, and which label is whose, are new in every row, so that nothing
but the points of the row tells. Clusters are Gaussian, all of one width; a coordinate is a token.

What is asked is the label whose points have the nearest mean. That is Bayes' rule here: for equal
numbers of points, equal round clusters and means anywhere, the likeliest cluster of a new point is
the one of the nearest mean. So there is an answer to every row, and a perfect score is 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from conf.schema import TOKENS, key
from data.meta import IGNORE
from data.tasks.draw import Draw
from data.tasks.task import numbered


@dataclass(frozen=True)
class FewShot:
    """See `data.tasks.task.Task`. Points, each with its label; then points with a mark in its
    place, where it is asked. Where two means are as near, the label that stands first counts."""

    version: ClassVar[int] = 1
    has_separator: ClassVar[bool] = False
    way: int = key(5, "clusters of a row", low=2, high=1000)
    shot: int = key(1, "points with a label of each cluster", low=1, high=TOKENS)
    queries: int = key(1, "points whose label is asked", low=1, high=TOKENS)
    dims: int = key(2, "coordinates of a point", low=1, high=1000)
    levels: int = key(16, "values of a coordinate", low=2, high=10_000)
    spread: float = key(1.0, "standard deviation of a cluster, in levels", low=0, high=10_000)

    @property
    def symbols(self) -> str:
        return numbered(self.levels + self.way + 1)

    @property
    def points(self) -> int:
        """Points of a row."""
        return self.way * self.shot + self.queries

    def problems(self, length: int) -> Iterator[str]:
        least = self.points * (self.dims + 1)
        if length < least:
            yield (
                f"data.length={length}: {self.points} points of {self.dims} coordinates and their "
                f"labels need {least}"
            )

    def sequences(self, draw: Draw, length: int) -> tuple[np.ndarray, np.ndarray]:
        rows, labelled, size = draw.rows, self.way * self.shot, self.dims + 1
        of_labelled = draw.some(labelled, labelled) % self.way  # clusters, in random order
        of_asked = draw.below(self.way, self.queries)
        clusters = np.concatenate((of_labelled, of_asked), axis=1)  # [N, P]
        means = draw.uniform(self.way * self.dims).reshape(rows, self.way, self.dims) * self.levels
        shape = (rows, self.points, self.dims)
        noise = _normal(draw, self.points * self.dims).reshape(shape)
        drawn = np.take_along_axis(means, clusters[..., None], axis=1) + self.spread * noise
        points = np.clip(np.floor(drawn), 0, self.levels - 1).astype(np.int64)
        names = draw.some(self.way, self.way)  # the label of each cluster
        nearest = self._nearest(points[:, :labelled], of_labelled, points[:, labelled:])

        inputs = np.full((rows, length), self.levels + self.way)
        targets = np.full(inputs.shape, IGNORE)
        grid = np.full((rows, self.points, size), self.levels + self.way)
        grid[..., :-1] = points
        grid[:, :labelled, -1] = self.levels + np.take_along_axis(names, of_labelled, axis=1)
        inputs[:, : self.points * size] = grid.reshape(rows, -1)
        places = np.arange(labelled + 1, self.points + 1) * size - 1
        targets[:, places] = self.levels + np.take_along_axis(names, nearest, axis=1)
        return inputs, targets

    def _nearest(self, points: np.ndarray, clusters: np.ndarray, asked: np.ndarray) -> np.ndarray:
        """The cluster whose mean is nearest to each of `asked` `[N, Q, D]`: `[N, Q]`.

        In integers: distances of sums over the points `[N, K, D]`, of which each cluster has as
        many.
        """
        every = np.arange(self.way)
        is_of = clusters[:, None] == every[:, None]  # [N, way, K]
        sums = is_of.astype(np.int64) @ points  # [N, way, D]
        away = ((self.shot * asked[:, :, None] - sums[:, None]) ** 2).sum(-1)  # [N, Q, way]
        first = is_of.argmax(axis=2)  # where the first point of each stands
        order = np.argsort(first, axis=1)
        in_order = np.take_along_axis(away, order[:, None], axis=2).argmin(axis=2)
        return np.take_along_axis(order, in_order, axis=1)


def _normal(draw: Draw, count: int) -> np.ndarray:
    """Standard normal numbers `[N, count]` (Box and Muller 1958)."""
    radius = np.sqrt(-2 * np.log(draw.uniform(count)))
    return radius * np.cos(2 * np.pi * draw.uniform(count))
