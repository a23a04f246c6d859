"""A branch that changes one key: exactly that key's effect is seen, and it is recorded.

Every run is a branch of step 2 of the same parent, made with two more steps. What can be observed
of it is compared with a branch that changes nothing: what differs must be what the key is for.
"""

from __future__ import annotations

import functools
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from conf.schema import (
    COUNTED,
    READING,
    DataConf,
    OptimConf,
    TrainConf,
    TrainerConf,
    TrainingConf,
    TuneConf,
)
from core.errors import UserError
from tests.registered_models import spec_of
from tests.training.runs import run, run_conf
from tracking.jsonl import read_rows
from training.checkpoints.find import read, saved
from training.run import train
from training.run_folder.digest import digest
from training.run_folder.folder import RunFolder
from training.run_folder.identity import WITHOUT_EFFECT

GROUPS = {
    "optim": OptimConf,
    "data": DataConf,
    "trainer": TrainerConf,
    "training": TrainingConf,
    "tune": TuneConf,
}
PARENT: dict[str, Any] = {
    "trainer.max_steps": 4,
    "trainer.val_check_interval": 2,
    "checkpoint.every_n_train_steps": 2,
    "data.batch_size": 2,
    "optim.warmup_steps": 1,
    "optim.eps": 1e-6,
}
OTHER = "another corpus"  # stands for its path
TRAINED = {"weights", "validation losses"}
"""What every key that reaches the gradient changes."""
DATA = {*TRAINED, "first loss", "batches"}
EACH_STEP: dict[str, Any] = {"trainer.val_check_interval": 1}
DIVERGES = EACH_STEP | {"optim.lr": 3.0, "optim.final_lr": 3.0, "trainer.max_steps": 6}
ENDS = {*TRAINED, "steps", "tokens", "rates", "rows", "validated", "end", "forward passes"}


ROWS = {"rows", "rates", "first loss"}
"""What cannot be seen of a step without a row."""
NOTHING: dict[str, Any] = {}


class Case(NamedTuple):
    """One key with another value."""

    key: str
    value: Any
    effect: set[str]
    """Which of `observed` differ."""
    beside: dict[str, Any] = NOTHING
    """Other keys, which the branch that it is compared with changes too."""
    rounded: frozenset[str] = frozenset()
    """What may differ too, in its last bits."""


CASES = [
    Case("optim.schedule", "constant", {*TRAINED, "rates"}),
    Case("optim.decay_steps", 2, {*TRAINED, "rates"}, {"optim.schedule": "wsd"}),
    Case("optim.decay_share", 0.5, {*TRAINED, "rates"}, {"optim.schedule": "wsd"}),
    Case("optim.lr", 5e-4, {*TRAINED, "rates"}),
    Case("optim.final_lr", 5e-4, {*TRAINED, "rates"}),
    Case("optim.lr_width", 16, {*TRAINED, "rates"}),
    Case("optim.warmup_steps", 3, {*TRAINED, "rates"}),
    Case("optim.beta1", 0.5, {*TRAINED, "betas"}),
    Case("optim.beta2", 0.9, {*TRAINED, "betas"}),
    Case("optim.eps", 1e-4, {*TRAINED, "eps"}),
    Case("optim.weight_decay", 0.5, {*TRAINED, "weight decay"}),
    Case("optim.l2wrap", 0.1, TRAINED),
    Case("optim.z_loss", 0.1, TRAINED),
    Case("optim.ema", 0.9, {"averages"}),
    Case("data.paths", [OTHER], DATA),
    Case("data.val_fraction", 0.3, DATA),
    Case("data.length", 16, {*DATA, "tokens"}),
    Case("data.batch_size", 4, {*DATA, "tokens"}),
    Case("data.batch_warmup", 8, {*DATA, "tokens"}),
    Case("data.length_warmup", 8, {*DATA, "tokens"}),
    Case("data.order", "magic_prime", DATA),
    Case("data.packing", "documents", {*TRAINED, "first loss", "forward passes"}),
    Case("data.verify", True, set()),
    Case("trainer.max_steps", 5, {*TRAINED, "steps", "tokens", "rates", "rows", "forward passes"}),
    Case("trainer.precision", "bf16-mixed", {*TRAINED, "first loss"}),
    Case("trainer.accumulate_grad_batches", 2, {*DATA, "tokens", "forward passes"}),
    Case("trainer.gradient_clip_val", 1e-3, TRAINED),
    Case("trainer.log_every_n_steps", 2, ROWS),
    Case("trainer.val_check_interval", 1, {"validated", "validation losses"}),
    Case("training.gradient_checkpointing", True, {"recomputed"}),
    Case("training.segment", 16, {"forward passes"}, rounded=frozenset({*TRAINED, "first loss"})),
    Case("training.bptt", "truncated", TRAINED, {"training.segment": 16}),
    Case("training.val_windows", 2, {"validation losses"}),
    Case("training.target_loss", 100.0, ENDS, EACH_STEP),
    Case("training.patience", 1, ENDS - {"rates"}, DIVERGES),
]
ELSEWHERE = {
    "optim.name": "refused on a branch: test_initial_weights.py",
    "data.corpus": "another corpus is data.paths here",
    "data.tokenizer": "refused on a branch: test_initial_weights.py",
    "data.vocab_size": "of the tokenizer, which must stay",
    "data.special_tokens": "of the prepared corpus: tests/data/test_store.py",
    **dict.fromkeys(
        (key for key in READING if key != "data.paths"), "of the texts: tests/data/readers/"
    ),
    "data.task": "of the task: tests/data/tasks/test_task_data.py",
    "data.mix": "several corpora: tests/training/test_mixed_training.py",
    "data.parts": "several corpora: tests/training/test_mixed_training.py",
    "data.validation": "changes no bits: tests/training/test_mixed_training.py",
    "data.magic_prime": "which windows it means: tests/data/test_magic_prime.py",
    "data.workers": "changes no bits: tests/training/test_exact.py",
    "data.cache_dir": "a place",
    "trainer.accelerator": "needs a GPU",
    "trainer.devices": "several processes: tests/training/distributed/test_strategies.py",
    "trainer.strategy": "several processes: tests/training/distributed/test_strategies.py",
    "trainer.sequence_parallel": "several processes: tests/training/distributed/test_strategies.py",
    "trainer.offload": "needs a GPU",
    "trainer.compile": "the same bits: tests/training/distributed/test_compiled.py",
    "trainer.enable_progress_bar": "shows: tests/training/loop/test_monitor.py",
    **dict.fromkeys(
        (key for key in COUNTED if key.startswith("training.")),
        "what rows say: tests/training/loop/test_expenses.py",
    ),
    "training.prune": "needs a group: tests/training/loop/test_early_end.py",
    "training.profile": "changes no bits: tests/training/loop/test_profile.py",
    "training.sample_every": "changes no bits: tests/training/loop/test_samples.py",
    "training.sample_prompt": "changes no bits: tests/training/loop/test_samples.py",
    "training.sample_tokens": "changes no bits: tests/training/loop/test_samples.py",
    **dict.fromkeys(
        ("tune.mode", "tune.rank", "tune.alpha", "tune.targets"),
        "begins anew with the weights: tests/training/checkpoints/test_frozen.py",
    ),
    "training.on_nan": "needs a NaN: tests/training/loop/test_nan_guard.py",
}
"""Keys that take no effect on a branch of one process on a CPU, or one that other tests show."""


def test_every_key_has_its_case() -> None:
    every = {f"{group}.{item.name}" for group, kind in GROUPS.items() for item in fields(kind)}
    assert {case.key for case in CASES} | ELSEWHERE.keys() == every
    assert not {case.key for case in CASES} & ELSEWHERE.keys()


def write_texts(folder: Path, word: str) -> str:
    """Short documents, so that most sequences hold the end of one."""
    folder.mkdir()
    for number in range(60):
        (folder / f"{number:02d}.txt").write_text(f"{word} {number} is in (x): " * 2)
    return str(folder / "*.txt")


class Runs:
    """The parent, and its branches by what they change."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.count = folder, 0
        self.texts = {
            OTHER: write_texts(folder / "other", "omega"),
            "": write_texts(folder / "texts", "alpha"),
        }
        self.parent, _ = self.run("parent", {})

    def run(self, name: str, changes: dict[str, Any]) -> tuple[dict[str, Any], RunFolder]:
        settings = {"data.paths": [""], **PARENT, **changes}
        settings["data.paths"] = [self.texts[path] for path in settings["data.paths"]]
        by_field = {key.replace(".", "__"): value for key, value in settings.items()}
        conf = run_conf(self.folder, self.folder / "corpus.txt", **by_field)
        conf.name = name
        if name != "parent":
            conf.init_from = f"{self.folder / 'parent'}@2"
        return run(conf)

    @functools.cache  # noqa: B019 (as long as the module's tests)
    def branch(self, *changes: tuple[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """What is observed of a branch, and its summary."""
        counts = {"recomputed": 0, "forward passes": 0}
        with pytest.MonkeyPatch.context() as patched:
            count(patched, counts)
            self.count += 1
            values = {key: [*v] if isinstance(v, tuple) else v for key, v in changes}
            summary, folder = self.run(f"branch-{self.count}", values)
        return observed(summary, folder) | counts, summary


def count(patched: pytest.MonkeyPatch, counts: dict[str, int]) -> None:
    """Count the blocks that are recomputed, and the forward passes of training."""
    from models.layers import trunk

    checkpoint, hidden = trunk.checkpoint, trunk.Trunk.hidden

    def counted_checkpoint(*args: Any, **options: Any) -> Any:
        counts["recomputed"] += 1
        return checkpoint(*args, **options)

    def counted_hidden(self: Any, *args: Any, **options: Any) -> Any:
        counts["forward passes"] += torch.is_grad_enabled()
        return hidden(self, *args, **options)

    patched.setattr(trunk, "checkpoint", counted_checkpoint)
    patched.setattr(trunk.Trunk, "hidden", counted_hidden)


def observed(summary: dict[str, Any], folder: RunFolder) -> dict[str, Any]:
    """What a key can have an effect on."""
    rows, content = read_rows(folder.metrics), read(saved(folder)[-1])
    trained = [row for row in rows if "train/loss" in row]
    validated = [row for row in rows if "val/loss" in row]
    group = max(
        content["optimizer_states"][0]["param_groups"], key=lambda group: group["weight_decay"]
    )
    return {
        "steps": summary["steps"],
        "tokens": summary["tokens"],
        "end": summary["ended_early"],
        "rows": [row["step"] for row in trained],
        "rates": {row["step"]: row["train/lr"] for row in trained if row["step"] in (3, 4)},
        "first loss": trained[0]["train/loss"] if trained[0]["step"] == 3 else None,
        "batches": summary["order_hash"] is not None,  # of the parent's order throughout
        "validated": [row["step"] for row in validated],
        "validation losses": [row["val/loss"] for row in validated],
        "betas": group["betas"],
        "eps": group["eps"],
        "weight decay": group["weight_decay"],
        "weights": digest({key: value for key, value in content.items() if key != "ema"}),
        "averages": "ema" in content,
    }


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(tmp_path_factory.mktemp("branches"))


def test_a_branch_that_changes_nothing_is_the_parent(runs: Runs) -> None:
    _, summary = runs.branch()
    assert summary["digest"] == runs.parent["digest"]
    assert summary["changes"] == []


def test_an_option_of_the_model_differs_in_a_branch_and_not_in_a_run_that_goes_on(
    tmp_path: Path, corpus: Path
) -> None:
    """Where it changes no weights: a window does not, a norm of queries and keys does."""
    conf = run_conf(tmp_path, corpus, trainer__max_steps=2, checkpoint__every_n_train_steps=1)
    spec, folder = spec_of("transformer"), RunFolder(tmp_path / "run")
    with pytest.MonkeyPatch.context() as older:  # a version whose runs did not know their options
        older.setattr("training.run.effective", lambda *_: {})
        parent = train(conf, spec, folder)
    later = replace(conf, trainer=replace(conf.trainer, max_steps=3))
    branch = replace(conf, init_from=f"{folder.path}@1")

    def begin(branch: TrainConf, name: str, **options: Any) -> dict[str, Any]:
        other = replace(spec, config={**spec.config, **options})
        return train(replace(branch, name=name), other, RunFolder(tmp_path / name))

    windowed = begin(branch, "windowed", window=2)
    usual = begin(branch, "usual")
    assert usual["changes"] == []
    assert windowed["changes"] == [{"step": 1, "changed": {"model.window": [None, 2]}}]
    assert windowed["digest"] != usual["digest"]
    with pytest.raises(UserError, match=r"qk_norm=None there, True here\. .*: leave out what"):
        begin(branch, "normed", qk_norm=True)
    with pytest.raises(UserError, match=r"model\.config\.n_head=\d there, 64 here"):
        begin(branch, "headed", n_head=64)
    assert usual["digest"] == parent["digest"]
    with pytest.raises(UserError, match=r"model\.config\.window=None then, 2 now"):
        begin(later, "run", window=2)
    folder.config.unlink()  # so that the checkpoint alone says whose it is
    with pytest.raises(UserError, match=r"model\.config\.window=None there, 2 here"):
        begin(later, "run", window=2)


@pytest.mark.parametrize("case", CASES, ids=[case.key for case in CASES])
def test_exactly_that_key_differs(runs: Runs, case: Case) -> None:
    beside = tuple(case.beside.items())
    usual, before = runs.branch(*beside)
    value = tuple(case.value) if isinstance(case.value, list) else case.value
    ours, summary = runs.branch(*beside, (case.key, value))
    different = {name for name in ours if ours[name] != usual[name]}
    assert different - case.rounded == case.effect
    for loss in ("first loss", "validation losses"):
        if loss in case.rounded:
            assert ours[loss] == pytest.approx(usual[loss], rel=1e-4)
    (change,) = summary["changes"] or [{"step": 2, "changed": {}}]
    assert change["step"] == 2 == summary["parent"]["step"]
    known = (before["changes"] or [change | {"changed": {}}])[0]["changed"]
    new = {key: pair for key, pair in change["changed"].items() if key not in known}
    if case.key == "data.paths":
        assert new.keys() == {"corpus"}
    elif case.key.startswith(WITHOUT_EFFECT):
        assert new == {}
    else:
        corpus = new.pop("corpus", None)
        assert (corpus is not None) == (case.key == "data.val_fraction")
        assert new.keys() == {case.key} and new[case.key][1] == case.value
