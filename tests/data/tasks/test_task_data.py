"""Rows of a task: pure, seekable, new in every step, and never those that validate."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from conf.schema import DataConf
from core.errors import UserError
from data.batches import Batches, all_validation, validation_windows
from data.mixture import heldout, open_data, order_of
from data.parts import part_problems
from data.tasks import task_data
from data.tasks.copying import Copying
from data.tasks.lookup import Lookup
from data.tasks.task_data import TASKS, TaskData, heldout_rows, open_task, training_rows


def conf(**settings: Any) -> DataConf:
    return DataConf(**{"corpus": "copy", "tokenizer": "chars", "length": 10, **settings})


def opened(**settings: Any) -> TaskData:
    data = open_data(conf(**settings))
    assert isinstance(data, TaskData)
    return data


def test_batches_are_pure_and_shared_exactly() -> None:
    whole = Batches(opened(), conf(), seed=1)
    batches = [whole[step] for step in range(6)]
    parts = [Batches(opened(), conf(), 1, rank, 2, accumulate=2) for rank in (0, 1)]
    for step in (5, 0, 3):
        both = [each[step] for each in parts]
        for i in (0, 1):
            assert torch.equal(torch.cat([batch[i] for batch in both]), batches[step][i])
        assert both[0].learned == both[1].learned == 2 * 4 * 5  # micro-batches, rows, letters
    rows = torch.cat([batch.tokens for batch in batches])
    assert len(rows.unique(dim=0)) == len(rows)
    assert not torch.equal(Batches(opened(), conf(), seed=2)[0].tokens, batches[0].tokens)


def test_targets_are_those_of_the_task() -> None:
    batch = Batches(opened(), conf(), seed=1)[3]
    inputs, targets = training_rows(opened(), 1).rows(np.arange(12, 16))
    assert np.array_equal(batch.tokens.numpy(), inputs)
    assert np.array_equal(batch.targets.numpy(), targets)


def test_rows_that_validate_are_no_rows_of_a_training() -> None:
    data = opened()
    held, _ = heldout_rows(data, 0, 200)
    trained, _ = training_rows(data, 0).rows(np.arange(200))
    assert not {row.tobytes() for row in held} & {row.tobytes() for row in trained}


def test_letters_are_uniform() -> None:
    rows, _ = training_rows(opened(length=41), 0).rows(np.arange(4000))
    counts = np.bincount(rows[:, :20].ravel())[1:]
    assert np.abs(counts / counts.mean() - 1).max() < 5 / np.sqrt(counts.mean())
    assert abs(np.corrcoef(rows[:-1, 0], rows[1:, 0])[0, 1]) < 0.07


def test_validation_is_fixed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task_data, "VALIDATED", 70)
    everything = list(all_validation(opened(), 10, 4))
    assert [len(tokens) for tokens, _ in everything] == [4, 3]
    some = list(validation_windows(opened(), 10, 5, 4))
    assert [len(tokens) for tokens, _ in some] == [4, 1]
    assert torch.equal(some[0][0], everything[0][0])
    assert len(list(validation_windows(opened(), 10, 100, 4))) == 2


def test_order_hash_tells_what_is_read() -> None:
    def hashed(steps: int = 3, seed: int = 0, **settings: Any) -> str:
        return order_of(opened(**settings), conf(**settings), seed).order_hash(steps)

    others = [hashed(4), hashed(seed=1), hashed(length=12), hashed(batch_size=5)]
    assert hashed() == hashed() and len({hashed(), *others}) == 5


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"paths": ["a.txt"]}, "data.paths"),
        ({"tokenizer": "bpe"}, "a token of data=copy is a character; use chars"),
        ({"length": 1}, "data.length=1: 1 letters to copy need 2"),
        ({"task": {"alphabt": 3}}, "data.task.alphabt: no setting of this task; did you mean"),
        ({"task": {"alphabet": "many"}}, "data.task.alphabet='many': expected an integer"),
        ({"task": {"alphabet": 27}}, "data.task.alphabet=27: must be at most 26"),
        ({"task": [3]}, "data.task=.3.: give its settings"),
        ({"packing": "documents"}, "data.packing"),
        ({"length_warmup": 4}, "data.length_warmup"),
        ({"order": "magic_prime"}, "data.order"),
    ],
)
def test_what_a_task_cannot_be_read_with(settings: dict[str, Any], why: str) -> None:
    with pytest.raises(UserError, match=why):
        open_task(conf(**settings))


@pytest.mark.parametrize("name", TASKS)
def test_every_task_keeps_its_promises(name: str) -> None:
    """Rows are the same in any company and in any order, and no two are equal, but for one."""
    data = TaskData(name, TASKS[name](), 256)
    rows = training_rows(data, 0)
    inputs, targets = rows.rows(np.arange(40))
    assert inputs.dtype == targets.dtype == np.int64
    assert inputs.max() < data.vocab_size == data.tokenizer.vocab_size
    for part, whole in zip(rows.rows(np.array([31, 4])), (inputs, targets), strict=True):
        assert np.array_equal(part, whole[[31, 4]])
    assert TaskData(name, TASKS[name](), 128).fingerprint == data.fingerprint
    few = name == "two_blobs"  # 4 colours in 9 places and 9
    assert len({row.tobytes() for row in inputs}) == 40 or few


def test_settings_make_other_data() -> None:
    fingerprints = {
        TaskData("copy", Copying(), 10).fingerprint,
        TaskData("copy", Copying(alphabet=3), 10).fingerprint,
        TaskData("copy", Copying(fewest=3), 10).fingerprint,
        TaskData("lookup", Lookup(), 10).fingerprint,
    }
    assert len(fingerprints) == 4


def test_what_validates_may_be_longer() -> None:
    settings = {"x2": {"length": 20}, "short": {"task": {"fewest": 1}}}
    own, double, short = heldout(conf(validation=settings), opened())
    assert (own.name, own.share) == ("", 1.0)
    assert (double.name, double.share) == ("x2", 0.0)
    assert isinstance(double.corpus, TaskData) and double.corpus.length == 20
    assert short.corpus == TaskData("copy", Copying(fewest=1), 10)
    (tokens, targets), *_ = all_validation(double.corpus, 10, 4)
    assert tokens.shape == targets.shape == (4, 20)
    longer, _ = training_rows(double.corpus, 0).rows(np.arange(100))
    assert not {row.tobytes() for row in tokens.numpy()} & {row.tobytes() for row in longer}


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ({"a": {"corpus": "text"}}, "data.validation.a.corpus: beside data=copy, what validates"),
        ({"a": 3}, "data.validation.a=3: give its words, as in"),
        ({"a": {"length": "long"}}, "data.validation.a.length='long': expected an integer"),
        ({"a": {"length": 0}}, "data.validation.a.length=0: must be at least 1"),
        ({"a": {"length": 1}}, "data.validation.a: data.length=1: 1 letters to copy need 2"),
        ({"a": {"task": 3}}, "data.validation.a.task=3: give its settings"),
        ({"a": {"task": {"alphabet": 3}}}, "data.validation.a: its symbols are not those"),
        ({"a": {"task": {"few": 3}}}, "data.validation.a: data.task.few: no setting"),
        ({"accuracy": {}}, "val/accuracy is a curve already"),
    ],
)
def test_what_cannot_validate_is_said(words: dict[str, Any], why: str) -> None:
    problems = list(part_problems(conf(validation=words)))
    assert any(problem.startswith(why) or why in problem for problem in problems), problems
    assert len(problems) == 1


def test_short_sequences_do_not_validate_by_the_thousands() -> None:
    assert [opened(length=length).heldout for length in (2, 32, 64, 1 << 17)] == [
        2048, 2048, 1024, 1,
    ]  # fmt: skip
