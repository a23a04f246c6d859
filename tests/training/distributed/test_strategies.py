"""Every strategy trains as one process does, and its checkpoints are like those of one process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import models
from conf.schema import TrainConf
from core.errors import UserError
from models.registry import model_class
from tests.registered_models import NAMES, spec_of
from tests.training.ranks import Job, folder_of, launch
from tests.training.runs import run, run_conf, write_corpus
from tracking.jsonl import read_rows
from training.checkpoints.find import read, saved
from training.loop.module import LanguageModel
from training.run_folder.folder import RunFolder

STEPS, MIDDLE = 6, 3  # 50 in the slow test
STRATEGIES = ("ddp", "fsdp", "deepspeed_1", "deepspeed_2", "deepspeed_3")
BY_NEED = STRATEGIES[:-1]  # that can call a block as often as a batch asks for
TOLERANCE = 1e-5  # relative, of losses
# Of what is trained: gradients are accumulated and clipped on the way.
SHARED: dict[str, Any] = {
    "trainer__max_steps": STEPS,
    "trainer__accumulate_grad_batches": 2,
    "trainer__gradient_clip_val": 0.5,
    "checkpoint__every_n_train_steps": MIDDLE,
    "trainer__val_check_interval": STEPS,
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Short files of different lengths, read apart: no two batches hold the same number of them."""
    folder = tmp_path_factory.mktemp("documents")
    for number in range(80):
        text = f"{chr(97 + number % 26) * 3} {number} " * (3 + number % 11)
        (folder / f"{number}.txt").write_text(text)
    return {
        "data__paths": sorted(map(str, folder.iterdir())),
        "data__packing": "documents",
        "data__length": 120,
        "training__gradient_checkpointing": True,
    }


def place(folder: Path, corpus: Path, name: str, strategy: str, **changes: Any) -> TrainConf:
    return run_conf(folder, corpus, **SHARED | {"trainer__strategy": strategy} | changes, name=name)


def numbers(folder: RunFolder, name: str) -> torch.Tensor:
    return torch.tensor([row[name] for row in read_rows(folder.metrics) if name in row])


def check(conf: TrainConf, single: RunFolder, clipped: bool = True) -> None:
    """Two processes against one: losses, norms, validation and the file that remains."""
    folder, steps = RunFolder(folder_of(conf)), conf.trainer.max_steps

    def what(message: str) -> str:
        return f"{folder.path.name}: {message}"

    for name, tolerance in (
        ("train/loss", TOLERANCE),
        ("val/loss", TOLERANCE),
        ("train/grad_norm", 1e-3),
    ):
        expected = numbers(single, name)
        assert len(expected) == (1 if name == "val/loss" else steps)
        got = numbers(folder, name)
        torch.testing.assert_close(got, expected, rtol=tolerance, atol=0, msg=what)
    assert (numbers(folder, "train/grad_norm") > 0.5).any() == clipped, "nothing was clipped"

    ours, theirs = read(saved(folder)[-1]), read(saved(single)[-1])
    assert ours["state_dict"].keys() == theirs["state_dict"].keys()
    for name, value in theirs["state_dict"].items():
        torch.testing.assert_close(ours["state_dict"][name], value, rtol=0, atol=1e-4, msg=what)
    (mine,), (other,) = ours["optimizer_states"], theirs["optimizer_states"]
    assert [group["params"] for group in mine["param_groups"]] == [
        group["params"] for group in other["param_groups"]
    ]
    for index, moments in other["state"].items():
        assert mine["state"][index].keys() == moments.keys()
        assert mine["state"][index]["step"] == steps
        for key in ("exp_avg", "exp_avg_sq"):
            got, expected = mine["state"][index][key], moments[key]
            torch.testing.assert_close(got, expected, rtol=1e-2, atol=1e-5, msg=what)
    mine, other = folder.summary(), single.summary()
    assert mine is not None and other is not None
    assert mine["val_loss"] == pytest.approx(other["val_loss"], rel=TOLERANCE), folder.path.name


@pytest.mark.parametrize(
    "strategies",
    [("fsdp", "deepspeed_3"), pytest.param(STRATEGIES, marks=pytest.mark.slow)],
    ids=len,
)
def test_two_processes_train_as_one_and_resume(
    tmp_path: Path, corpus: Path, documents: dict[str, Any], strategies: tuple[str, ...]
) -> None:
    """All strategies in one launch: importing takes longer than the runs.

    Each is stopped in the middle and continued; two continue what one process has begun; and where
    that works, documents are read apart, or segments, with activations recomputed.
    """
    single = run(place(tmp_path / "one", corpus, "one", "auto"), "rwkv4")[1]
    short = documents | {"trainer__max_steps": 4, "trainer__val_check_interval": 4}
    apart = run(place(tmp_path / "one", corpus, "apart", "auto", **short), "rwkv4")[1]
    whole = {strategy: place(tmp_path / "a", corpus, strategy, strategy) for strategy in strategies}
    again = {strategy: place(tmp_path / "b", corpus, strategy, strategy) for strategy in strategies}
    other = [place(tmp_path / key, corpus, "one", key) for key in ("fsdp", "deepspeed_3")]
    packed = {
        strategy: place(tmp_path / "d", corpus, strategy, strategy, **short)
        for strategy in strategies
        if strategy in BY_NEED
    }
    jobs = [Job(conf, "rwkv4") for conf in whole.values()]
    jobs += [Job(conf, "rwkv4", folder_of(whole[key]), MIDDLE) for key, conf in again.items()]
    jobs += [Job(conf, "rwkv4", single.path, MIDDLE) for conf in other]
    jobs += [Job(conf, "rwkv4") for conf in packed.values()]
    parts = place(tmp_path / "e", corpus, "parts", "fsdp", training__segment=12)
    jobs.append(Job(parts, "rwkv4"))
    spans = [
        place(tmp_path / "g", corpus, f"spans-{segment}", "ddp", training__segment=segment,
              trainer__sequence_parallel=True)
        for segment in (0, 16)
    ]  # fmt: skip
    jobs += [Job(conf, "rwkv4") for conf in spans]
    # A fine-tuning in one process, and in two that share the rows or the sequences.
    begun = {
        "init_from": str(single.path),
        "trainer__max_steps": 2,
        "trainer__val_check_interval": 2,
    }
    lora, state = ({**begun, "tune__mode": mode} for mode in ("lora", "state"))
    tuned = {
        mode: run(place(tmp_path / "one", corpus, mode, "auto", **kind), "rwkv4")[1]
        for mode, kind in (("lora", lora), ("state", state))
    }
    split = {"trainer__sequence_parallel": True}
    tunings = [
        ("lora", place(tmp_path / "h", corpus, "lora", "ddp", **lora)),
        ("lora", place(tmp_path / "h", corpus, "lora-spans", "ddp", **lora, **split)),
        ("state", place(tmp_path / "h", corpus, "state", "ddp", **state)),
    ]
    jobs += [Job(conf, "rwkv4") for _, conf in tunings]
    jobs.append(Job(place(tmp_path / "f", corpus, "odd", "fsdp", data__batch_size=3), "rwkv4"))
    *passed, refused = launch(jobs, tmp_path)

    assert not any(passed), passed
    assert refused == "data.batch_size=3 cannot be shared by 2 processes: choose a multiple"
    for conf in (*whole.values(), parts, *spans):
        check(conf, single)
    for conf in packed.values():
        check(conf, apart)
    for mode, conf in tunings:
        check(conf, tuned[mode], clipped=False)
    for strategy in strategies:
        before, after = (RunFolder(folder_of(of[strategy])).summary() for of in (whole, again))
        assert before is not None and after is not None
        assert before["digest"] == after["digest"], strategy
    for conf in other:
        folder = RunFolder(folder_of(conf))
        rest = numbers(single, "train/loss")[MIDDLE:]
        torch.testing.assert_close(numbers(folder, "train/loss"), rest, rtol=TOLERANCE, atol=0)
        assert models.load(saved(folder)[-1]).config == models.load(saved(single)[-1]).config


def test_one_process_and_bf16(tmp_path: Path, corpus: Path) -> None:
    """A strategy for many processes runs in one; half precision is that of other strategies."""
    short = {"trainer__max_steps": 4, "trainer__val_check_interval": 4}
    half = short | {"trainer__precision": "bf16-mixed"}
    full = run(place(tmp_path, corpus, "full", "auto", **short), "transformer")[1]
    plain = run(place(tmp_path, corpus, "plain", "auto", **half), "transformer")[1]
    expected = numbers(plain, "train/loss")
    assert (numbers(full, "train/loss") / expected - 1).abs().max() > 1e-5
    for strategy in ("fsdp", "deepspeed_3"):
        folder = run(place(tmp_path, corpus, strategy, strategy, **half), "transformer")[1]
        torch.testing.assert_close(numbers(folder, "train/loss"), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    "strategy", ["fsdp", "deepspeed_3", pytest.param("deepspeed_2", marks=pytest.mark.slow)]
)
def test_steps_with_an_infinite_gradient_stop_the_run_or_are_left_out(
    tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch, strategy: str
) -> None:
    honest = LanguageModel.training_step

    def step(module: LanguageModel, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        objective = honest(module, batch, batch_idx)
        if module.trainer.global_step == 2:
            objective.register_hook(lambda gradient: gradient * torch.nan)
        return objective

    monkeypatch.setattr(LanguageModel, "training_step", step)
    changes: dict[str, Any] = {"trainer__max_steps": 3, "checkpoint__every_n_train_steps": 1}
    with pytest.raises(UserError, match=r"^step 3: .*step-00000002\.ckpt"):
        run(place(tmp_path, corpus, "stop", strategy, **changes))
    changes["training__on_nan"] = "skip"
    summary, folder = run(place(tmp_path, corpus, "skip", strategy, **changes))
    assert summary["steps"] == 3 and summary["skipped_steps"] == 1
    first, last = (read(path)["state_dict"] for path in saved(folder))
    assert all(torch.equal(tensor, last[name]) for name, tensor in first.items())


@pytest.mark.slow
def test_every_model_under_every_strategy(
    tmp_path: Path, corpus: Path, documents: dict[str, Any]
) -> None:
    """Also what one process alone would not offload, and activations recomputed."""
    long = {
        "trainer__max_steps": 50,
        "trainer__val_check_interval": 50,
        "checkpoint__every_n_train_steps": 25,
    }
    short = {"trainer__max_steps": 6, "trainer__val_check_interval": 6}
    variants: dict[str, dict[str, Any]] = {
        "plain": long,
        "checkpointing": short | {"training__gradient_checkpointing": True},
        "documents": short | documents,
    }
    spans = {"trainer__sequence_parallel": True}
    jobs, ones = [], {}
    for model in NAMES:
        for variant, changes in variants.items():
            name = f"{model}-{variant}"
            single = place(tmp_path / "one", corpus, name, "auto", **changes)
            ones[name] = run(single, model)[1]
            jobs += [
                Job(place(tmp_path / strategy, corpus, name, strategy, **changes), model)
                for strategy in (BY_NEED if variant == "documents" else STRATEGIES)
            ]
        if model_class(spec_of(model).target).can_span:
            spans_apart = place(tmp_path / "spans", corpus, f"{model}-plain", "ddp", **long | spans)
            jobs.append(Job(spans_apart, model))
        jobs += [
            Job(
                place(tmp_path / f"offload-{stage}", corpus, f"{model}-plain", stage,
                      trainer__offload=True, **long),
                model,
            )
            for stage in ("deepspeed_1", "deepspeed_2", "deepspeed_3")
        ]  # fmt: skip
    assert not any(launch(jobs, tmp_path))
    for job in jobs:
        check(job.conf, ones[str(job.conf.name)])
