"""Brute force: each solver is given the inputs of one row, and says what is asked where."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, timedelta
from functools import cache
from itertools import product

import numpy as np

from data.meta import IGNORE
from data.tasks.copying import Copying, Reversal
from data.tasks.few_shot import FewShot
from data.tasks.lookup import Lookup
from data.tasks.needle import Needle
from data.tasks.ordering import ConvexHull, Sorting
from data.tasks.recall import Induction, Recall
from data.tasks.selective import SelectiveCopying
from data.tasks.task import Task
from data.tasks.translations import SEPARATOR, WIDTHS, Dates, NumberWords, words, written
from data.tasks.two_blobs import TwoBlobs
from data.tasks.vectors import AssociativeRecall, RepeatCopying, VectorCopying
from data.tasks.word_problems import WordProblem, elements


def solve_copying(task: Copying, row: list[int]) -> dict[int, int]:
    mark = row.index(len(task.symbols) - 1)
    return {mark + i: letter for i, letter in enumerate(row[:mark])}


def solve_reversal(task: Reversal, row: list[int]) -> dict[int, int]:
    mark = row.index(len(task.symbols) - 1)
    return {mark + i: letter for i, letter in enumerate(reversed(row[:mark]))}


def solve_lookup(task: Lookup, row: list[int]) -> dict[int, int]:
    text = "".join(task.symbols[i] for i in row)
    if task.place == "prefix":
        wanted, _, rest = text.partition("|")
        string, bar, _ = rest.partition("|")
        first = len(wanted) + len(string) + 1
        if not bar:  # which is the last target of a row that is full
            raise AssertionError("no string")
    else:
        string, _, rest = text.partition("|")
        wanted = rest[: task.ngram]
        first = len(string) + task.ngram
    answer = string[string.index(wanted) + len(wanted) :]
    if task.answer:
        answer = answer[: task.answer]
    return {first + i: task.symbols.index(letter) for i, letter in enumerate(answer)}


def solve_recall(task: Recall, row: list[int]) -> dict[int, int]:
    end = 2 * task.pairs
    values = dict(zip(row[:end:2], row[1:end:2], strict=True))
    assert len(values) == task.pairs
    return {i: values[token] for i, token in enumerate(row) if i >= end and token in values}


def solve_induction(task: Induction, row: list[int]) -> dict[int, int]:
    return {len(row) - 1: row[row.index(row[-1]) + 1]}


def solve_selective(task: SelectiveCopying, row: list[int]) -> dict[int, int]:
    kept = [token for token in row if 0 < token < task.vocabulary - 1]
    return dict(enumerate(kept, row.index(task.vocabulary - 1)))


def solve_words(task: WordProblem, row: list[int]) -> dict[int, int]:
    members = elements(task.group)
    answers, points = {}, list(range(len(members[0])))
    for place in range(len(row)):
        whole = points
        for token in reversed(row[: place + 1]):  # the last one acts first
            whole = [members[token][i] for i in whole]
        answers[place] = members.index(tuple(whole))
    return answers


def solve_needle(task: Needle, row: list[int]) -> dict[int, int]:
    text = "".join(task.symbols[i] for i in row)
    asked = re.search(r"code of (\w+): ", text)
    assert asked is not None
    said = re.search(rf"the code of {asked[1]} is (\d+)\. ", text)
    assert said is not None
    return {asked.end() - 1 + i: task.symbols.index(digit) for i, digit in enumerate(said[1])}


def solve_vectors(task: VectorCopying, row: list[int]) -> dict[int, int]:
    mark = row.index(2**task.bits + 1)
    return dict(enumerate(row[:mark], mark))


def solve_repeats(task: RepeatCopying, row: list[int]) -> dict[int, int]:
    blank, mark = 2**task.bits, 2**task.bits + 1
    count, times = row.index(mark), row.count(mark)
    return dict(enumerate(row[:count] * times + [blank], count + times - 1))


def solve_association(task: AssociativeRecall, row: list[int]) -> dict[int, int]:
    text, size = "".join(task.symbols[i] for i in row), task.item
    blank, before, around = list(task.symbols[-3:])
    listed, query, _ = text.split(around)
    items = listed.split(before)[1:]
    assert {len(item) for item in items} == {size} and blank not in listed + query
    answer = items[items.index(query) + 1]
    first = len(listed) + size + 1
    return {first + i: task.symbols.index(vector) for i, vector in enumerate(answer)}


def solve_few_shot(task: FewShot, row: list[int]) -> dict[int, int]:
    size = task.dims + 1
    points: dict[int, list[list[int]]] = {}
    answers: dict[int, int] = {}
    for end in range(size - 1, len(row), size):
        point, label = row[end + 1 - size : end], row[end]
        if label != len(task.symbols) - 1:
            points.setdefault(label, []).append(point)
        elif max(point) < task.levels:
            means = {one: np.mean(of_it, axis=0) for one, of_it in points.items()}
            answers[end] = min(means, key=lambda one: float(((means[one] - point) ** 2).sum()))
    return answers


def solve_two_blobs(task: TwoBlobs, row: list[int]) -> dict[int, int]:
    mask = len(task.symbols) - 1
    (colour,) = {pixel for pixel in row if 0 < pixel < mask}
    colour = (colour - 1 + task.turn) % task.colours + 1
    return {place: colour for place, pixel in enumerate(row) if pixel == mask}


def solve_sorting(task: Sorting, row: list[int]) -> dict[int, int]:
    mark = row.index(len(task.symbols) - 1)
    ordered = sorted(row[:mark])
    return {mark + i: 1 + task.values + row.index(number) for i, number in enumerate(ordered)}


def solve_hull(task: ConvexHull, row: list[int]) -> dict[int, int]:
    """Lower and upper chain from left to right and back (Andrew 1979)."""
    mark = row.index(len(task.symbols) - 1)
    points = list(zip(row[:mark:2], row[1:mark:2], strict=True))

    def chain(ordered: list[tuple[int, int]]) -> list[tuple[int, int]]:
        kept: list[tuple[int, int]] = []
        for x, y in ordered:
            while len(kept) > 1:
                (ax, ay), (bx, by) = kept[-2:]
                if (bx - ax) * (y - ay) > (by - ay) * (x - ax):
                    break
                kept.pop()
            kept.append((x, y))
        return kept[:-1]

    onward = sorted(points)
    corners = [*chain(onward), *chain(onward[::-1]), onward[0]]
    return {mark + i: 1 + task.values + points.index(point) for i, point in enumerate(corners)}


@dataclass(frozen=True)
class Trial:
    """A task with settings and a length, and what solves it."""

    task: Task
    length: int
    solve: Callable[..., dict[int, int]]
    exact: bool = True
    """Whether the inputs tell where something is asked; a random token may look like a question."""

    def solved(self, inputs: np.ndarray) -> np.ndarray:
        """The targets `[N, T]` of inputs `[N, T]`, which is all that the solver is given."""
        targets = np.full(inputs.shape, IGNORE)
        for row, answers in enumerate(map(self._answers, inputs.tolist())):
            for place, answer in answers.items():
                targets[row, place] = answer
        return targets

    def _answers(self, row: list[int]) -> dict[int, int]:
        return self.solve(self.task, row)


def solve_dates(task: Dates, row: list[int]) -> dict[int, int]:
    """Every day of the years in every way of writing it."""
    source, _, _ = "".join(task.symbols[i] for i in row).partition(SEPARATOR)
    (only,) = _days(task)[source]
    return _translated(task, source, only.isoformat())


@cache
def _days(task: Dates) -> dict[str, set[date]]:
    found: dict[str, set[date]] = {}
    day = date(task.first_year, 1, 1)
    while day.year <= task.last_year:
        for locale, width in product(task.locales.split(), WIDTHS):
            found.setdefault(written(day, locale, width), set()).add(day)
        day += timedelta(days=1)
    return found


def solve_number_words(task: NumberWords, row: list[int]) -> dict[int, int]:
    """Every number."""
    source, _, _ = "".join(task.symbols[i] for i in row).partition(SEPARATOR)
    (only,) = (n for n in range(task.most + 1) if words(n, task.source) == source)
    return _translated(task, source, words(only, task.target))


def _translated(task: Dates | NumberWords, source: str, target: str) -> dict[int, int]:
    return {len(source) + i: task.symbols.index(c) for i, c in enumerate(target + "\n")}


TRIALS = {
    "copy": Trial(Copying(), 12, solve_copying),
    "copy-shortest": Trial(Copying(alphabet=1), 2, solve_copying),
    "copy-drawn": Trial(Copying(alphabet=5, fewest=2), 23, solve_copying),
    "reversal": Trial(Reversal(), 12, solve_reversal),
    "reversal-drawn": Trial(Reversal(alphabet=5, fewest=2), 23, solve_reversal),
    "lookup": Trial(Lookup(), 40, solve_lookup),
    "lookup-drawn": Trial(Lookup(alphabet=3, ngram=2, fewest=4), 31, solve_lookup),
    "lookup-suffix": Trial(Lookup(alphabet=2, ngram=2, place="suffix"), 30, solve_lookup),
    "lookup-short": Trial(Lookup(ngram=1, answer=2, fewest=3), 20, solve_lookup),
    "mqar": Trial(Recall(), 64, solve_recall, exact=False),
    "mqar-small": Trial(Recall(pairs=8, vocabulary=256), 64, solve_recall, exact=False),
    "mqar-dense": Trial(Recall(pairs=4, vocabulary=18, noise=False), 16, solve_recall),
    "induction": Trial(Induction(), 32, solve_induction),
    "induction-shortest": Trial(Induction(vocabulary=3), 3, solve_induction),
    "selective": Trial(SelectiveCopying(), 64, solve_selective),
    "selective-shortest": Trial(SelectiveCopying(tokens=3, vocabulary=3), 6, solve_selective),
    **{f"words-{group}": Trial(WordProblem(group), 14, solve_words)
       for group in ("S3", "A5", "A4xZ5", "Z60", "Z2")},
    "ntm-copy": Trial(VectorCopying(), 41, solve_vectors),
    "ntm-copy-shortest": Trial(VectorCopying(bits=1, fewest=0), 2, solve_vectors),
    "repeat-copy": Trial(RepeatCopying(), 120, solve_repeats),
    "repeat-copy-most": Trial(
        RepeatCopying(bits=2, vectors=3, fewest=0, repeats=2, fewest_repeats=0), 14, solve_repeats
    ),
    "association": Trial(AssociativeRecall(), 31, solve_association),
    "association-few": Trial(
        AssociativeRecall(bits=1, item=1, items=5, fewest=0), 16, solve_association
    ),
    "few-shot": Trial(FewShot(), 19, solve_few_shot),
    "few-shot-shots": Trial(FewShot(way=3, shot=4, queries=3, dims=3), 60, solve_few_shot),
    "few-shot-ties": Trial(
        FewShot(way=4, shot=2, queries=5, dims=1, levels=8), 26, solve_few_shot
    ),
    "two-blobs": Trial(TwoBlobs(), 81, solve_two_blobs),
    "two-blobs-placed": Trial(TwoBlobs(colours=3, turn=2, size=3, places=2), 100, solve_two_blobs),
    "dates": Trial(Dates(first_year=2024, last_year=2024), 46, solve_dates),
    "dates-of-one": Trial(Dates("ru", first_year=1999, last_year=1999), 46, solve_dates),
    "number-words": Trial(NumberWords(most=299), 78, solve_number_words),
    "number-words-few": Trial(NumberWords("fr", "pl", most=21), 40, solve_number_words),
    "sorting": Trial(Sorting(), 20, solve_sorting),
    "sorting-drawn": Trial(Sorting(values=8, fewest=1), 24, solve_sorting),
    "convex-hull": Trial(ConvexHull(), 31, solve_hull),
    "convex-hull-in-lines": Trial(ConvexHull(values=3, fewest=2), 28, solve_hull),
    "needle": Trial(Needle(), 200, solve_needle),
    "needle-shortest": Trial(Needle(digits=2), 41, solve_needle),
    "needles": Trial(Needle(needles=3), 300, solve_needle),
}  # fmt: skip
