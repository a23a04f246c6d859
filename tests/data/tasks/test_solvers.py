"""Every task, beside a solver that is given nothing but its inputs."""

from __future__ import annotations

import numpy as np
import pytest

from data.meta import IGNORE
from data.tasks.few_shot import FewShot
from data.tasks.lookup import Lookup
from data.tasks.needle import Needle
from data.tasks.ordering import ConvexHull, Sorting
from data.tasks.recall import Induction, Recall
from data.tasks.selective import SelectiveCopying
from data.tasks.task import Task
from data.tasks.task_data import TASKS, TaskData, TaskRows, training_rows
from data.tasks.translations import Dates, NumberWords
from data.tasks.two_blobs import TwoBlobs
from data.tasks.vectors import AssociativeRecall, RepeatCopying, VectorCopying
from data.tasks.word_problems import elements, table
from tests.data.tasks.solvers import TRIALS, Trial

ROWS = 60


def rows_of(trial: Trial) -> tuple[np.ndarray, np.ndarray]:
    assert list(trial.task.problems(trial.length)) == []
    (name,) = (name for name, kind in TASKS.items() if kind is type(trial.task))
    return training_rows(TaskData(name, trial.task, trial.length), 0).rows(np.arange(ROWS))


@pytest.mark.parametrize("name", TRIALS)
def test_a_solver_that_sees_the_inputs_alone_is_always_right(name: str) -> None:
    """And what it can answer is what is asked: the mask covers the answer, and nothing else."""
    trial = TRIALS[name]
    inputs, targets = rows_of(trial)
    solved = trial.solved(inputs)
    asked = targets != IGNORE
    assert asked.any(axis=1).all()
    assert np.array_equal(solved[asked], targets[asked])
    if trial.exact:
        assert np.array_equal(solved != IGNORE, asked)


@pytest.mark.parametrize("name", TRIALS)
def test_sequences_have_the_length_and_the_symbols_that_they_say(name: str) -> None:
    trial = TRIALS[name]
    inputs, targets = rows_of(trial)
    symbols = trial.task.symbols
    assert inputs.shape == targets.shape == (ROWS, trial.length)
    assert inputs.dtype == targets.dtype == np.int64
    assert inputs.min() >= 0 and inputs.max() < len(symbols)
    assert set(np.unique(targets)) <= {IGNORE, *range(len(symbols))}
    assert list(symbols) == sorted(set(symbols))


@pytest.mark.parametrize("name", TRIALS)
def test_a_separator_is_the_last_symbol_and_ends_the_source(name: str) -> None:
    trial = TRIALS[name]
    if not trial.task.has_separator:
        return
    inputs, targets = rows_of(trial)
    is_mark = inputs == len(trial.task.symbols) - 1
    assert (is_mark.sum(axis=1) == 1).all()
    asked_from = (targets != IGNORE).argmax(axis=1)
    assert np.array_equal(asked_from, is_mark.argmax(axis=1)), "nothing is asked of the source"


def test_every_task_is_solved() -> None:
    assert {type(trial.task) for trial in TRIALS.values()} | {TASKS["parity"]} == {*TASKS.values()}


@pytest.mark.parametrize(
    ("task", "length", "why"),
    [
        (Lookup(), 4, "data.length=4 has room for strings of 1 letters, and 4 are needed"),
        (Lookup(fewest=3), 40, "data.task.fewest=3: a key of 3 letters and an answer of 1 need 4"),
        (Recall(), 14, "data.length=14: 4 pairs and their queries need an even 16"),
        (Recall(), 17, "data.length=17: 4 pairs and their queries need an even 16"),
        (Recall(vocabulary=64), 64, "data.task.vocabulary=64 is too small for 4 pairs in 64 "
         "tokens: at least 65"),
        (Recall(vocabulary=8), 16, "data.task.vocabulary=8 is too small for 4 pairs in 16 "
         "tokens: at least 17"),
        (Induction(), 2, "data.length=2: mark, token and mark need 3"),
        (SelectiveCopying(), 31, "data.length=31: 16 tokens and as many questions need 32"),
        (VectorCopying(fewest=4), 7, "data.length=7: 4 vectors to copy need 8"),
        (RepeatCopying(), 119, "data.length=119: 10 vectors 10 times need 120"),
        (RepeatCopying(repeats=2, fewest_repeats=3), 120, "data.task.fewest_repeats=3 must not "
         "exceed the most, 2"),
        (AssociativeRecall(), 30, "data.length=30: 6 items of 3 vectors need 31"),
        (AssociativeRecall(fewest=7), 31, "data.task.fewest=7 must be at least 2, for one item "
         "follows another, and not exceed the most, 6"),
        (FewShot(shot=2), 32, "data.length=32: 11 points of 2 coordinates and their labels "
         "need 33"),
        (TwoBlobs(), 60, "data.length=60: an image is square; 49 and 64 are"),
        (TwoBlobs(), 64, "data.length=64: two blobs of 2 pixels and 3 places, and a row "
         "between them, need 81"),
        (Dates(), 45, "data.length=45: the longest source and its translation need 46"),
        (Dates("en xx"), 46, "data.task.locales='en xx': some of de, en, es, fr, it, nl, pl, pt, "
         "ru, sv"),
        (Dates(""), 46, "data.task.locales='': some of de, en, es, fr, it, nl, pl, pt, ru, sv"),
        (Dates(first_year=2000, last_year=1999), 46, "data.task.last_year=1999 is before "
         "data.task.first_year=2000"),
        (NumberWords(), 107, "data.length=107: the longest source and its translation need 108"),
        (NumberWords("en", "en"), 108, "data.task.target='en': the source has this language "
         "already"),
        (Sorting(fewest=4), 7, "data.length=7: 4 numbers to sort need 8"),
        (Sorting(values=9, fewest=10), 20, "data.task.fewest=10: at most 9 numbers, which have a "
         "place each"),
        (ConvexHull(fewest=3), 9, "data.length=9: 3 points and their hull need 10"),
        (ConvexHull(values=2, fewest=5), 40, "data.task.fewest=5: at most 4 points, which have a "
         "place each"),
        (Needle(), 42, "data.length=42: 1 needles and the question need 45 characters"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_said(task: Task, length: int, why: str) -> None:
    assert list(task.problems(length)) == [why]


def test_queries_come_after_gaps_that_fall_as_a_power() -> None:
    """Zoology's power of 0.01: the first of K places has the weight 1, the last K^-0.99."""
    rows = 20_000
    task = Recall(pairs=1, vocabulary=64)
    _, targets = TaskRows(TaskData("mqar", task, 22), "train 0").rows(np.arange(rows))
    places = (np.argmax(targets != IGNORE, axis=1) - 2) // 2
    weights = np.arange(1, 11) ** -0.99
    expected = rows * weights / weights.sum()
    assert (np.abs(np.bincount(places, minlength=10) - expected) < 5 * np.sqrt(expected)).all()


@pytest.mark.parametrize(("group", "order"), [("S3", 6), ("A5", 60), ("A4xZ5", 60), ("Z60", 60)])
def test_groups_are_groups(group: str, order: int) -> None:
    products, members = table(group), np.arange(order)
    assert len(elements(group)) == order == len(products)
    assert np.array_equal(products[0], members) and np.array_equal(products[:, 0], members)
    assert (np.sort(products, axis=0) == members[:, None]).all()  # each has an inverse
    left = products[products[:, :, None], members]
    assert np.array_equal(left, products[members[:, None, None], products[None]])
    assert np.array_equal(products, products.T) == (group == "Z60")
