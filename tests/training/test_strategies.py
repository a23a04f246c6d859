"""Every strategy trains as one process does, and its checkpoints are like those of one process."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import models
from models.errors import UserError
from tests.contestants import NAMES
from tests.training.runs import run, run_conf, write_corpus
from training.checkpoint import read, saved
from training.folder import RunFolder
from training.metrics import read_rows

STEPS, MIDDLE = 50, 25
STRATEGIES = ("ddp", "fsdp", "deepspeed_1", "deepspeed_2", "deepspeed_3")
# Of what is trained: gradients are accumulated and clipped on the way.
SHARED: dict[str, Any] = {
    "trainer__max_steps": STEPS,
    "trainer__accumulate_grad_batches": 2,
    "trainer__gradient_clip_val": 0.5,
    "checkpoint__every": MIDDLE,
    "training__val_every": STEPS,
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def alone(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Runs of one process by contestant."""
    done: dict[str, RunFolder] = {}

    def of(contestant: str) -> RunFolder:
        if contestant not in done:
            folder = tmp_path_factory.mktemp(contestant)
            done[contestant] = run(run_conf(folder, corpus, **SHARED), contestant)[1]
        return done[contestant]

    return of


def numbers(folder: RunFolder, name: str) -> torch.Tensor:
    return torch.tensor([row[name] for row in read_rows(folder.metrics) if name in row])


def check(
    tmp_path: Path, corpus: Path, one: RunFolder, strategy: str, contestant: str, **changes: Any
) -> RunFolder:
    """Two processes against one: losses, norms, validation and the file that remains."""
    conf = run_conf(
        tmp_path, corpus, **SHARED, trainer__devices=2, trainer__strategy=strategy, **changes
    )
    summary, folder = run(conf, contestant)
    for name, tolerance in (("train/loss", 1e-5), ("val/loss", 1e-5), ("train/grad_norm", 1e-3)):
        expected = numbers(one, name)
        assert len(expected) == (1 if name == "val/loss" else STEPS)
        torch.testing.assert_close(numbers(folder, name), expected, rtol=tolerance, atol=0)
    assert (numbers(folder, "train/grad_norm") > 0.5).any(), "nothing was clipped"

    ours, theirs = read(saved(folder)[-1]), read(saved(one)[-1])
    assert ours["state_dict"].keys() == theirs["state_dict"].keys()
    for name, value in theirs["state_dict"].items():
        torch.testing.assert_close(ours["state_dict"][name], value, rtol=0, atol=1e-4)
    (mine,), (other) = ours["optimizer_states"], theirs["optimizer_states"][0]
    assert [group["params"] for group in mine["param_groups"]] == [
        group["params"] for group in other["param_groups"]
    ]
    for index, moments in other["state"].items():
        assert mine["state"][index].keys() == moments.keys()
        assert mine["state"][index]["step"] == STEPS
        assert mine["state"][index]["exp_avg"].shape == moments["exp_avg"].shape
    expected = read_rows(one.metrics)[-1]["val/loss"]
    assert summary["val_loss"] == pytest.approx(one.summary()["val_loss"], rel=1e-5), expected  # type: ignore[index]
    return folder


def interrupted(folder: RunFolder, elsewhere: Path) -> None:
    """What would lie there had the run been killed after its save in the middle."""
    copy = RunFolder(elsewhere / folder.path.name)
    copy.checkpoints.mkdir(parents=True)
    shutil.copy(folder.config, copy.config)
    for path in folder.checkpoints.glob(f"step-{MIDDLE:08d}.*"):
        shutil.copy(path, copy.checkpoints)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_two_processes_train_as_one_and_resume(
    tmp_path: Path, corpus: Path, alone: Any, strategy: str
) -> None:
    folder = check(tmp_path / "a", corpus, alone("rwkv7"), strategy, "rwkv7")
    interrupted(folder, tmp_path / "b")
    again = run_conf(
        tmp_path / "b", corpus, **SHARED, trainer__devices=2, trainer__strategy=strategy
    )
    summary, _ = run(again, "rwkv7")
    before = folder.summary()
    assert before is not None
    assert summary["digest"] == before["digest"]


def test_a_checkpoint_continues_under_another_strategy_and_number_of_processes(
    tmp_path: Path, corpus: Path, alone: Any
) -> None:
    one = alone("rwkv7")
    interrupted(one, tmp_path)
    conf = run_conf(tmp_path, corpus, **SHARED, trainer__devices=2, trainer__strategy="deepspeed_3")
    _, folder = run(conf, "rwkv7")
    torch.testing.assert_close(
        numbers(folder, "train/loss"), numbers(one, "train/loss")[MIDDLE:], rtol=1e-5, atol=0
    )
    assert models.load(saved(folder)[-1]).config == models.load(saved(one)[-1]).config


@pytest.mark.parametrize("strategy", ["fsdp", "deepspeed_3"])
def test_one_process_alone_and_bf16(tmp_path: Path, corpus: Path, strategy: str) -> None:
    changes = {**SHARED, "trainer__max_steps": 6, "trainer__precision": "bf16-mixed"}
    _, plain = run(run_conf(tmp_path / "a", corpus, **changes), "transformer")
    _, folder = run(
        run_conf(tmp_path / "b", corpus, **changes, trainer__strategy=strategy), "transformer"
    )
    torch.testing.assert_close(
        numbers(folder, "train/loss"), numbers(plain, "train/loss"), rtol=1e-3, atol=0
    )


def test_a_process_that_dies_ends_the_run_with_its_name(tmp_path: Path, corpus: Path) -> None:
    """Three rows cannot be shared by two processes; the second one finds out too."""
    conf = run_conf(tmp_path, corpus, data__batch_size=3, trainer__devices=2)
    with pytest.raises(UserError, match="cannot be shared"):
        run(conf)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("contestant", NAMES)
def test_every_contestant_under_every_strategy(
    tmp_path: Path, corpus: Path, alone: Any, contestant: str, strategy: str
) -> None:
    check(tmp_path, corpus, alone(contestant), strategy, contestant)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["deepspeed_2", "deepspeed_3"])
def test_offloaded(tmp_path: Path, corpus: Path, alone: Any, strategy: str) -> None:
    check(tmp_path, corpus, alone("rwkv4"), strategy, "rwkv4", trainer__offload=True)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_gradient_checkpointing(tmp_path: Path, corpus: Path, alone: Any, strategy: str) -> None:
    changes = {"training__gradient_checkpointing": True}
    check(tmp_path, corpus, alone("rwkv7"), strategy, "rwkv7", **changes)
