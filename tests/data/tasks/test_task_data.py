"""Rows of a task: pure, seekable, new in every step, and never those that validate."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from conf.schema import DataConf
from core.errors import UserError
from data.batches import Batches, all_validation, validation_windows
from data.mixture import open_data, order_of
from data.tasks import task_data
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
    rows, learned = training_rows(opened(), 1).rows(np.arange(12, 16))
    assert np.array_equal(batch.tokens.numpy(), rows[:, :-1])
    assert np.array_equal(batch.targets.numpy(), np.where(learned, rows, -100)[:, 1:])


def test_rows_that_validate_are_no_rows_of_a_training() -> None:
    data = opened()
    held, _ = heldout_rows(data, 0, 200)
    trained, _ = training_rows(data, 0).rows(np.arange(200))
    assert not {row.tobytes() for row in held} & {row.tobytes() for row in trained}


def test_letters_are_uniform() -> None:
    rows, _ = training_rows(opened(length=41), 0).rows(np.arange(4000))
    counts = np.bincount(rows[:, :20].ravel())
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
        ({"length": 1}, "data=copy needs 2 or more"),
        ({"packing": "documents"}, "data.packing"),
        ({"length_warmup": 4}, "data.length_warmup"),
        ({"order": "magic_prime"}, "data.order"),
        ({"validation": {"a": {"corpus": "text"}}}, "data.validation"),
    ],
)
def test_what_a_task_cannot_be_read_with(settings: dict[str, Any], why: str) -> None:
    with pytest.raises(UserError, match=why):
        open_task(conf(**settings))


@pytest.mark.parametrize("name", TASKS)
def test_every_task_keeps_its_promises(name: str) -> None:
    data = TaskData(name, max(16, TASKS[name].shortest))
    tokens, learned = training_rows(data, 0).rows(np.arange(40))
    assert tokens.dtype == np.int64 and learned.dtype == bool
    assert tokens.shape == learned.shape == (40, data.length + 1)
    assert tokens.min() >= 0 and tokens.max() < data.vocab_size == data.tokenizer.vocab_size
    assert learned[:, 1:].any()
    shortest, some = training_rows(TaskData(name, TASKS[name].shortest), 0).rows(np.arange(40))
    assert shortest.shape[1] == TASKS[name].shortest + 1 and some[:, 1:].any()


def test_short_sequences_do_not_validate_by_the_thousands() -> None:
    assert [opened(length=length).heldout for length in (2, 32, 64, 1 << 17)] == [
        2048, 2048, 1024, 1,
    ]  # fmt: skip
