"""Text of which some is only read, on two processes: the mean over all that a step learns.

However unevenly it lies over processes and micro-batches, a process of which a step learns nothing
included, with the engines that are used on GPUs.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from conf.schema import TrainConf
from data.batches import Batches
from data.store import prepare
from models.registry import model_class
from tests.registered_models import NAMES, spec_of
from tests.training.ranks import WORLD, Job, folder_of, launch
from tests.training.runs import run, run_conf
from tracking.jsonl import read_rows
from training.checkpoints.find import read, saved
from training.run_folder.folder import RunFolder

STEPS, ACCUMULATE = 4, 2
TOLERANCE = 1e-5  # of fp32 rounding between two ways to sum the same gradients
STRATEGIES = ("ddp", "fsdp", "deepspeed_1", "deepspeed_2", "deepspeed_3")
BY_NEED = STRATEGIES[:-1]  # that can call a block as often as a batch asks for
WAYS: dict[str, dict[str, Any]] = {
    "whole": {},
    "segments": {"training__segment": 12},
    "documents": {"data__packing": "documents"},
    "spans": {"trainer__sequence_parallel": True},
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Long questions and short answers: many windows learn nothing, others a few letters."""
    path = tmp_path_factory.mktemp("corpus") / "pairs.jsonl"
    with path.open("w") as file:
        for number in range(60):
            pair = {
                "question": f"question {number} " * (number % 13 + 1),
                "answer": f"answer {number} " * (number % 3 + 1),
            }
            file.write(json.dumps(pair) + "\n")
    return path


def pairs(folder: Path, corpus: Path, name: str, strategy: str, **changes: Any) -> TrainConf:
    shared: dict[str, Any] = {
        "data__corpus": "jsonl",
        "data__prompt": "question",
        "data__answer": "answer",
        "data__batch_size": 2,
        "trainer__max_steps": STEPS,
        "trainer__accumulate_grad_batches": ACCUMULATE,
        "trainer__val_check_interval": STEPS,
        "trainer__strategy": strategy,
        "checkpoint__every_n_train_steps": 1,
        "checkpoint__keep": f"last:{STEPS}",
        "optim__l2wrap": 1e-3,
        "optim__z_loss": 1e-3,
        "optim__warmup_steps": 0,
    }
    return run_conf(folder, corpus, **shared | changes, name=name)


def learned(conf: TrainConf) -> torch.Tensor:
    """Targets that each process learns of each micro-batch of each step: `[steps, 2, 2]`."""
    corpus = prepare(conf.data)
    shares = [Batches(corpus, conf.data, conf.seed, rank, WORLD, ACCUMULATE) for rank in range(2)]
    counts = [
        [int((share[number].targets >= 0).sum()) for share in shares]
        for number in range(STEPS * ACCUMULATE)
    ]
    return torch.tensor(counts).view(STEPS, ACCUMULATE, WORLD)


def check(conf: TrainConf, single: RunFolder) -> None:
    """Losses and norms of every step, and the gradient of the first, beside those of one process.

    The first moment after one step is a fixed share of its gradient.
    """
    folder = RunFolder(folder_of(conf))

    def what(message: str) -> str:
        return f"{folder.path.parent.name} {folder.path.name}: {message}"

    for name in ("train/loss", "train/grad_norm", "val/loss", "train/trained_tokens"):
        mine, other = (
            torch.tensor([row[name] for row in read_rows(of.metrics) if name in row])
            for of in (folder, single)
        )
        tolerance = TOLERANCE if name == "train/loss" else 10 * TOLERANCE
        torch.testing.assert_close(mine, other, rtol=tolerance, atol=1e-7, msg=what)
    ours, theirs = (
        read(next(path for path in saved(of) if path.stem.endswith("-00000001")))
        for of in (folder, single)
    )
    (mine,), (other,) = ours["optimizer_states"], theirs["optimizer_states"]
    largest = max(moments["exp_avg"].abs().max() for moments in other["state"].values())
    for index, moments in other["state"].items():
        torch.testing.assert_close(
            mine["state"][index]["exp_avg"], moments["exp_avg"],
            rtol=TOLERANCE, atol=float(TOLERANCE * largest), msg=what,
        )  # fmt: skip


def compare(
    tmp_path: Path, corpus: Path, names: list[str], strategies: dict[str, tuple[str, ...]]
) -> None:
    """Train each model in each way to read, with some strategies, and in one process."""
    jobs, ones = [], []
    for model in names:
        kind = model_class(spec_of(model).target)
        for way, some in strategies.items():
            if (way == "segments" and not kind.recurrent) or (way == "spans" and not kind.can_span):
                continue
            name = f"{model}-{way}"
            alone = {} if way == "spans" else WAYS[way]
            single = pairs(tmp_path / "one", corpus, name, "auto", **alone)
            one = run(single, model)[1]
            for strategy in some:
                conf = pairs(tmp_path / strategy, corpus, name, strategy, **WAYS[way])
                jobs.append(Job(conf, model))
                ones.append(one)
    counts = learned(single)
    of_step = counts.sum(dim=1)
    assert (of_step == 0).any(dim=1).any() and of_step.sum(dim=1)[0] > 0
    assert of_step[0, 0] != of_step[0, 1] and (counts[0].sum(dim=1) == 0).any()
    assert not any(launch(jobs, tmp_path))
    for job, one in zip(jobs, ones, strict=True):
        check(job.conf, one)


def test_two_processes_learn_the_same_as_one(tmp_path: Path, corpus: Path) -> None:
    ways = dict.fromkeys(WAYS, ("fsdp",)) | {
        "whole": ("deepspeed_2", "deepspeed_3"),
        "spans": ("ddp",),
    }
    compare(tmp_path, corpus, ["rwkv4"], ways)


@pytest.mark.slow
def test_every_model_strategy_and_way_to_read(tmp_path: Path, corpus: Path) -> None:
    ways = dict.fromkeys(WAYS, BY_NEED) | {"whole": STRATEGIES, "spans": ("ddp",)}
    compare(tmp_path, corpus, list(NAMES), ways)
