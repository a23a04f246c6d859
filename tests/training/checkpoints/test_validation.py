"""A checkpoint is continued only whole, and only by the run that wrote it."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from core.errors import UserError
from core.files import write_manifest
from models.registry import ModelSpec
from tests.training.runs import run, run_conf, write_corpus
from tracking.jsonl import read_rows
from training.checkpoints.find import read, saved
from training.checkpoints.plain import Unfit, check_plain
from training.checkpoints.starting_point import choose
from training.checkpoints.validation import check_whole
from training.run_folder.begun import Begun
from training.run_folder.folder import RunFolder
from training.run_folder.identity import check_continues


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> RunFolder:
    """Four steps, saved at 2 and 4."""
    changes = {
        "checkpoint__every_n_train_steps": 2,
        "trainer__max_steps": 4,
        "trainer__val_check_interval": 0,
    }
    return run(run_conf(tmp_path_factory.mktemp("short"), corpus, **changes))[1]


@pytest.fixture(scope="module")
def content(short: RunFolder) -> dict[str, Any]:
    return read(saved(short)[-1])


def spec_in(content: dict[str, Any]) -> ModelSpec:
    return ModelSpec(**content["crossover"]["identity"]["model"])


def moments(tree: Any) -> Any:
    return tree["optimizer_states"][0]


def model(tree: Any) -> Any:
    return tree["crossover"]["identity"]["model"]


def loop(tree: Any) -> Any:
    return tree["loops"]["fit_loop"]


HEAD = "model.head.weight"
CHANGES: dict[str, tuple[str, Callable[[Any], object]]] = {
    "no optimizer": ("optimizer_states", lambda c: c.pop("optimizer_states")),
    "no moments": ("optimizer_states.state", lambda c: moments(c)["state"].clear()),
    "a moment less": ("optimizer_states.state", lambda c: moments(c)["state"].popitem()),
    "moments of a shape": (
        "moments 0 has the shape",
        lambda c: moments(c)["state"][0].update(exp_avg=torch.zeros(3)),
    ),
    "moments of text": ("moments 0", lambda c: moments(c)["state"][0].update(exp_avg="x")),
    "a step of moments": (
        "moments 0", lambda c: moments(c)["state"][0].update(step=torch.tensor(9.0))
    ),
    "ascent": ("param_groups", lambda c: moments(c)["param_groups"][0].update(maximize=True)),
    "a rate of text": ("param_groups", lambda c: moments(c)["param_groups"][0].update(lr="x")),
    "a group less": ("param_groups", lambda c: moments(c)["param_groups"].pop()),
    "no schedule": ("lr_schedulers", lambda c: c.pop("lr_schedulers")),
    "an earlier schedule": ("last_epoch", lambda c: c["lr_schedulers"][0].update(last_epoch=1)),
    "a schedule's attribute": ("lr_schedulers", lambda c: c["lr_schedulers"][0].update(a=1)),
    "a schedule's function": (
        "lr_lambdas", lambda c: c["lr_schedulers"][0]["lr_lambdas"].__setitem__(0, {"a": 1})
    ),
    "no loops": ("loops", lambda c: c.pop("loops")),
    "no loops of a fit": ("loops", lambda c: loop(c).clear()),
    "a loop of text": ("loops", lambda c: loop(c)["epoch_progress"].update(total="x")),
    "a loop's negative": ("loops", lambda c: loop(c)["epoch_progress"]["total"].update(ready=-1)),
    "another loop": ("loops: their step", lambda c: c.update(loops=begun_loops(c))),
    "no random state": ("random", lambda c: c["crossover"].pop("random")),
    "no process": ("random", lambda c: c["crossover"].update(random=[])),
    "a position beyond": (
        "random", lambda c: c["crossover"]["random"][0]["numpy"].__setitem__(2, 10**6)
    ),
    "a generator of text": ("random", lambda c: c["crossover"]["random"][0].update(torch="x")),
    "no configuration": ("crossover.run", lambda c: c["crossover"].pop("run")),
    "no ledger": ("crossover.ledger", lambda c: c["crossover"].pop("ledger")),
    "a ledger of text": ("ledger.tokens", lambda c: c["crossover"]["ledger"].update(tokens="x")),
    "no format": ("the number of its format", lambda c: c["crossover"].pop("format")),
    "another format": ("format 2, of another version", lambda c: c["crossover"].update(format=2)),
    "another Lightning": ("version", lambda c: c.update({"pytorch-lightning_version": "9.9.9"})),
    "a step of text": ("global_step", lambda c: c.update(global_step="x")),
    "a step of none": ("global_step", lambda c: c.pop("global_step")),
    "a best of text": ("best", lambda c: c["crossover"].update(best={"step": "x", "val_loss": 1})),
    "a tensor less": (r"\(model.head.weight\)", lambda c: c["state_dict"].pop(HEAD)),
    "a tensor more": (r"\(a\)", lambda c: c["state_dict"].update(a=torch.zeros(1))),
    "a tensor's shape": (
        r"has the shape \[3\]", lambda c: c["state_dict"].update({HEAD: torch.zeros(3)})
    ),
    "a tensor's type": ("its type", lambda c: halve(c["state_dict"])),
    "a list for a tensor": (HEAD, lambda c: c["state_dict"].update({HEAD: [1.0]})),
    "no loss scale": ("MixedPrecision", lambda c: c["crossover"].update(scales=["MixedPrecision"])),
    "no monitor": ("callbacks", lambda c: c["callbacks"].clear()),
    "no identity": ("identity", lambda c: c["crossover"].update(identity="x")),
    "a tensor in the configuration": (
        r"run is wrong \(a value of the type Tensor\)",
        lambda c: c["crossover"]["run"].update({"optim.lr": torch.zeros(3)}),
    ),
    "a number for a name": (
        r"run is wrong \(a name that is not text\)", lambda c: c["crossover"]["run"].update({5: 1})
    ),
    "a tensor in the model": (
        "identity is wrong", lambda c: model(c)["config"].update(n_layer=torch.zeros(3))
    ),
    "a model of numbers": ("identity.model.target", lambda c: model(c).update(target=5)),
    "a tensor in the machine": (
        "machine is wrong", lambda c: c["crossover"]["machine"].update(threads=torch.zeros(3))
    ),
    "a list in the machine": (
        "crossover.machine", lambda c: c["crossover"]["machine"].update(cpu=["x"])
    ),
    "a number of 401 digits": (
        "run is wrong", lambda c: c["crossover"]["run"].update(seed=10**400)
    ),
    "a tensor beside ours": (
        "callbacks is wrong", lambda c: c["callbacks"].update(a=torch.ones(2))
    ),
    "rows of a number": ("rows", lambda c: c["crossover"]["rows"].update(sha256=1)),
    "scales of numbers": ("scales", lambda c: c["crossover"].update(scales=[1])),
    "a number of moments": ("moments", lambda c: c["crossover"].update(moments=torch.zeros(3))),
    "a ledger of none": ("ledger", lambda c: c["crossover"].update(ledger=None)),
    "parameters of a tensor": (
        "param_groups", lambda c: moments(c)["param_groups"][0].update(params=torch.zeros(3))
    ),
    "a complex step": (
        "moments 0", lambda c: moments(c)["state"][0].update(step=torch.tensor(1j))
    ),
    "a moment of halves": (
        "moments 0: their type",
        lambda c: moments(c)["state"][0].update(exp_avg=moments(c)["state"][0]["exp_avg"].half()),
    ),
    "no class": ("identity.model", lambda c: c["crossover"]["identity"]["model"].pop("target")),
}  # fmt: skip


def begun_loops(tree: Any) -> Any:
    loops = copy.deepcopy(tree["loops"])
    made = loops["fit_loop"]["epoch_loop.automatic_optimization.optim_progress"]
    made["optimizer"]["step"]["total"] = {"ready": 0, "completed": 0}
    return loops


def halve(tensors: Any) -> None:
    tensors[HEAD] = tensors[HEAD].half()


def test_a_whole_one_is_taken(content: dict[str, Any]) -> None:
    check_plain(content, 1 << 30)
    check_whole(content, spec_in(content), "32-true")
    with pytest.raises(Unfit, match="its type"):
        check_whole(content, spec_in(content), "bf16-true")
    check_whole(content, spec_in(content), None)  # a branch may keep its weights otherwise


@pytest.mark.parametrize("change", CHANGES)
def test_what_is_not_whole_is_named(content: dict[str, Any], change: str) -> None:
    said, act = CHANGES[change]
    tree = copy.deepcopy(content)
    act(tree)
    with pytest.raises(Unfit, match=said):
        check_whole(tree, spec_in(content), "32-true")


def nested(depth: int) -> list[Any]:
    tree: list[Any] = []
    for _ in range(depth):
        tree = [tree]
    return tree


@pytest.mark.parametrize(
    ("tree", "said"),
    [
        (nested(2000), "nested more than 20 deep"),
        ({"a": torch.zeros(1).expand(1 << 20, 1 << 20)}, "bytes in a file of"),
        ({"a": torch.zeros(3).to_sparse()}, "a tensor of a kind"),
        ({"a": torch.zeros(3, device="meta")}, "a tensor of a kind"),
        ({"a": {1, 2}}, "the type set"),
        ({(1, 2): 3}, "a name that is no text"),
    ],
)
def test_what_no_training_holds_is_not_copied(tree: Any, said: str) -> None:
    with pytest.raises(Unfit, match=said):
        check_plain(tree, 1000)


def rewrite(path: Path, change: Callable[[Any], object]) -> None:
    tree = torch.load(path, weights_only=True)
    change(tree)
    torch.save(tree, path)
    write_manifest(path)


def placed(folder: Path, source: RunFolder, *names: str) -> RunFolder:
    """What of `source` was copied by hand into the place of another run."""
    moved = RunFolder(folder / "run")
    shutil.copytree(source.checkpoints, moved.checkpoints)
    for name in names:
        shutil.copy(source.path / name, moved.path)
    return moved


def test_the_one_before_it_is_taken(
    tmp_path: Path, short: RunFolder, corpus: Path, caplog: pytest.LogCaptureFixture
) -> None:
    copy = placed(tmp_path, short, "config.yaml", "metrics.jsonl")
    newest = saved(copy)[-1]
    rewrite(newest, lambda tree: tree.pop("loops"))
    changes = {
        "checkpoint__every_n_train_steps": 2,
        "trainer__max_steps": 4,
        "trainer__val_check_interval": 0,
    }
    summary, _ = run(run_conf(tmp_path, corpus, **changes))
    assert f"{newest} is damaged (loops is missing or wrong: it cannot be restored)" in caplog.text
    assert f"{newest} is now {newest.name}.damaged-1" in caplog.text
    assert "continuing from step 2" in caplog.text
    assert summary["digest"] == json.loads(short.summary_path.read_text())["digest"]
    rows = [row["step"] for row in read_rows(copy.metrics) if "train/loss" in row]
    assert rows == [1, 2, 3, 4]
    rewrite(saved(copy)[0], lambda tree: tree.update(global_step="x"))
    rewrite(saved(copy)[1], lambda tree: tree.pop("lr_schedulers"))
    copy.summary_path.unlink()
    with pytest.raises(UserError, match=r"every checkpoint is damaged .*global_step.*resume=never"):
        run(run_conf(tmp_path, corpus, **changes))


OTHERS = {
    "seed": ("seed=0 there, 1 here", {"seed": 1}),
    "rate": ("optim.lr=0.001 there, 0.002 here", {"optim__lr": 2e-3}),
    "betas": ("optim.beta1=0.9 there, 0.8 here", {"optim__beta1": 0.8}),
    "decay": ("optim.weight_decay=0.1 there, 0.2 here", {"optim__weight_decay": 0.2}),
    "batch": ("data.batch_size=4 there, 2 here", {"data__batch_size": 2}),
    "precision": (
        "trainer.precision='32-true' there, 'bf16-mixed' here", {"trainer__precision": "bf16-mixed"}
    ),
    "context": ("data.length=32 there, 16 here", {"data__length": 16}),
    "segment": ("training.segment=0 there, 16 here", {"training__segment": 16}),
}  # fmt: skip


@pytest.mark.parametrize("key", OTHERS)
def test_a_checkpoint_of_another_run_is_refused(
    tmp_path: Path, short: RunFolder, corpus: Path, key: str
) -> None:
    said, changes = OTHERS[key]
    copy = placed(tmp_path, short)
    with pytest.raises(UserError) as refused:
        run(run_conf(tmp_path, corpus, trainer__max_steps=6, **changes))
    text = str(refused.value)
    assert f"is of another run ({said})" in text and "\n" not in text
    assert f"resume={saved(copy)[-1]} begins a branch" in text
    assert len(saved(copy)) == 2 and not copy.metrics.exists() and not copy.config.exists()


def test_a_refusal_shows_what_a_file_holds_briefly_and_escaped() -> None:
    theirs = {"x\x1b[31m\n" + "y" * 5000: "a\x1b[2J" + "b" * 5000}
    content = {"global_step": 1, "crossover": {"run": theirs, "ledger": {"parent": None}}}
    with pytest.raises(UserError) as refused:
        check_continues(Path("a.ckpt"), content, {}, None)
    text = str(refused.value)
    assert "x\\x1b[31m\\nyyy" in text and "'a\\x1b[2Jbbb" in text
    assert text.isprintable() and len(text) < 500


def test_what_may_change_between_starts_is_continued(
    tmp_path: Path, short: RunFolder, corpus: Path, caplog: pytest.LogCaptureFixture
) -> None:
    copy = placed(tmp_path, short, "config.yaml", "metrics.jsonl")
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        summary, _ = run(
            run_conf(tmp_path, corpus, trainer__max_steps=5, trainer__log_every_n_steps=2)
        )
    finally:
        torch.set_num_threads(threads)
    assert summary["steps"] == 5 and summary["parent"] is None
    assert "goes on at 0.00025: it only rises until the last step, 5" in caplog.text
    assert f"number of threads {threads}, now {threads + 1}" in caplog.text
    assert Begun.read(copy) is None


def test_the_way_out_is_a_branch_and_recorded(
    tmp_path: Path, short: RunFolder, corpus: Path, caplog: pytest.LogCaptureFixture
) -> None:
    copy = placed(tmp_path, short)
    changes = {
        "seed": 1,
        "trainer__max_steps": 6,
        "checkpoint__every_n_train_steps": 0,
        "trainer__val_check_interval": 0,
    }
    foreign = saved(copy)[-1]
    summary, _ = run(run_conf(tmp_path, corpus, resume=str(foreign), **changes))
    begun = Begun.read(copy)
    assert begun is not None and begun.parent is not None and begun.parent.step == 4
    assert summary["parent"]["path"] == str(foreign) and summary["order_hash"] is None
    # The branch before its own first save: the foreign checkpoint is its parent, not its own.
    for path in copy.checkpoints.glob("step-00000006.*"):
        path.unlink()
    copy.summary_path.unlink()
    again, _ = run(run_conf(tmp_path, corpus, **changes))
    assert "a branch of" in caplog.text and again["digest"] == summary["digest"]
    # Its checkpoints are no others': not of one with its configuration that is no branch.
    other = placed(tmp_path / "other", copy)
    with pytest.raises(UserError, match=r"a branch of .* there, begun from nothing here"):
        run(run_conf(tmp_path / "other", corpus, **{**changes, "trainer__max_steps": 7}))
    assert len(saved(other)) == len(saved(copy))


def test_one_from_before_it_was_recorded_is_believed_and_said(
    tmp_path: Path, short: RunFolder, corpus: Path, caplog: pytest.LogCaptureFixture
) -> None:
    copy = placed(tmp_path, short)

    def older(tree: Any) -> None:
        for key in ("format", "run", "moments", "scales", "rows"):
            del tree["crossover"][key]

    rewrite(saved(copy)[-1], older)
    run(run_conf(tmp_path, corpus, trainer__max_steps=5))
    assert "before checkpoints knew the configuration" in caplog.text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "not JSON"),
        ("[" * 99_999, "nested"),
        ('{"resume": 1, "parent": null}', "resume is missing"),
        ('{"resume": "a", "parent": "x"}', "parent is missing or wrong"),
        ('{"resume": "a", "parent": {"path": "a\\u0000", "step": 1, "sha256": ""}}', "parent"),
        ('{"resume": "a", "parent": {"path": "a", "step": "1", "sha256": ""}}', "parent"),
    ],
)
def test_a_damaged_beginning_is_not_guessed(tmp_path: Path, text: str, said: str) -> None:
    folder = RunFolder(tmp_path)
    folder.start.write_text(text)
    with pytest.raises(UserError, match=rf"start\.json is damaged \(.*{said}.*resume=CHECKPOINT"):
        choose("auto", folder, str(tmp_path), lambda path, branch: {})
