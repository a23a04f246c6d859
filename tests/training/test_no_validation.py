"""Trainings on everything: without a validation loss, or with that of a text of its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from core.errors import UserError
from probes.analysis.dataset import collect
from tests.scripts.commands import run_script
from tests.training.runs import run, run_conf, write_corpus
from tracking.jsonl import read_rows
from training.checkpoints.find import read, saved

WORDS = [
    "model.size=tiny", "model.n_layer=1", "data=text", "data.paths=[text.txt]",
    "data.tokenizer=bytes", "data.length=16", "data.val_fraction=0", "optim.warmup_steps=1",
    "trainer.max_steps=2", "trainer.val_check_interval=1", "wandb.mode=disabled",
    "trainer.enable_progress_bar=false", "trainer.accelerator=cpu",
]  # fmt: skip


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = write_corpus(tmp_path_factory.mktemp("everything"))
    for name in ("first", "second"):
        text = "".join(f"the {name} text, line {number}\n" for number in range(90))
        (path.parent / f"{name}.txt").write_text(text)
    return path


def texts(corpus: Path, *names: str) -> dict[str, Any]:
    return {name: {"paths": str(corpus.parent / f"{name}.txt")} for name in names}


def test_nothing_validates_and_all_is_trained_on(
    corpus: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    changes = {"data__val_fraction": 0.0, "optim__ema": 0.5, "checkpoint__best": True}
    summary, folder = run(run_conf(tmp_path, corpus, **changes))
    assert "no validation loss: data.val_fraction=0 holds nothing out" in caplog.text
    rows = read_rows(folder.metrics)
    assert len(rows) == 8 and not any(key.startswith("val/") for row in rows for key in row)
    for key in ("val_loss", "val_ema_loss", "val_bits_per_byte", "unigram_entropy"):
        assert summary[key] is None, key
    assert summary["validation"] == {} and not folder.best.exists()
    assert len(saved(folder)) == 2  # as many as without a best one
    # The same windows of a text that is held out of nothing: validating changes no bit.
    watched = {"data__validation": texts(corpus, "first")}
    other, _ = run(run_conf(tmp_path / "watched", corpus, **changes, **watched))
    assert other["digest"] == summary["digest"] and other["val_loss"] > 0
    # A report shows it as a run, and takes no loss from it.
    dataset = collect([folder.path])
    assert dataset.trainings == () and len(dataset.runs) == 1


def test_a_mixture_of_which_nothing_is_held_out(corpus: Path, tmp_path: Path) -> None:
    parts = {"one": {"paths": str(corpus)}, **texts(corpus, "second")}
    changes = {
        "data__val_fraction": 0.0, "data__mix": {"one": 3, "second": 1}, "data__parts": parts,
        "data__paths": [],
    }  # fmt: skip
    summary, _ = run(run_conf(tmp_path, corpus, **changes))
    assert summary["val_loss"] is None and summary["parts"]["second"]["tokens"] == 256
    changes |= {"data__validation": texts(corpus, "first"), "name": "watched"}
    summary, _ = run(run_conf(tmp_path, corpus, **changes))
    assert summary["val_loss"] == summary["validation"]["first"]["loss"]


def test_the_text_that_decides_stays_first(corpus: Path, tmp_path: Path) -> None:
    def begun(name: str, steps: int, *names: str) -> dict[str, Any]:
        validation = texts(corpus, *names) or None
        return run(
            run_conf(
                tmp_path, corpus, name=name, data__val_fraction=0.0, data__validation=validation,
                trainer__max_steps=steps, checkpoint__best=True, optim__schedule="constant",
            )
        )[0]  # fmt: skip

    begun("run", 4, "first")
    with pytest.raises(UserError, match=r"was \w{16} and is \w{16} here. Leave the one first"):
        begun("run", 8, "second", "first")
    summary = begun("run", 6)  # without any: no loss is taken for another's
    assert summary["val_loss"] is None
    with pytest.raises(UserError, match="Leave the one first that was"):
        begun("run", 8, "second")
    assert begun("run", 8, "first", "second")["val_loss"] > 0
    begun("none", 4)
    assert begun("none", 8, "second")["val_loss"] > 0


def test_the_text_is_in_the_checkpoint(corpus: Path, tmp_path: Path) -> None:
    for name, fraction, known in (("own", 0.1, False), ("other", 0.0, True)):
        changes = {"data__val_fraction": fraction, "data__validation": texts(corpus, "first")}
        _, folder = run(run_conf(tmp_path, corpus, name=name, **changes))
        content = read(saved(folder)[-1])
        assert (content["crossover"]["measured"] is not None) == known


def test_what_needs_a_validation_loss_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text("alpha beta gamma delta " * 300)
    because = "looks at the validation loss, and there is none: data.val_fraction=0 holds nothing"
    part = "{corpus: text, paths: text.txt, val_fraction: 0.1}"
    parts = f"data.parts={{a: {{paths: text.txt}}, b: {part}}}"
    mixed = ["data.mix={a: 1, b: 1}", parts, "data.paths=[]"]
    for more, message in (
        (["training.patience=2"], f"training.patience=2 {because}"),
        (["training.target_loss=2.5"], f"training.target_loss=2.5 {because}"),
        (["training.prune=median", "group=g"], f"training.prune=median {because}"),
        (
            ["-m", "hydra/sweeper=optuna", "group=g", "optim.lr=0.01,0.001"],
            "objective=val/loss is what is searched, and there is no validation loss",
        ),
        (mixed, "data.parts.a.val_fraction=0: of a mixture each part holds a share out, or none"),
    ):
        done = run_script(capfd, "train", *WORDS, *more)
        assert done.status == 2 and message in done.err and done.err.count("\n") == 1, done.err
        assert not Path("runs").exists()
    done = run_script(capfd, "train", *WORDS, "name=all")
    assert done.status == 0, done.err
    assert done.out.endswith("step 2, no validation loss: nothing was held out\n")
    assert json.loads(Path("runs/all/summary.json").read_text())["val_loss"] is None
    done = run_script(capfd, "report", "runs=[runs/all]", "out=page")
    assert done.status == 0, done.err
    assert "This training has no validation loss in nats per token: there is none" in done.out
    assert "1 training without a validation loss in nats per token" in done.out
