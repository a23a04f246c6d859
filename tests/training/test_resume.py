"""N straight steps equal k steps, a restart, and N - k steps: bit for bit."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from conf.schema import RENAMED
from core.errors import UserError
from tests.training.runs import run, run_conf, write_corpus
from tracking.jsonl import read_rows
from training.checkpoints.find import newest, saved
from training.loop.optim import AdamW
from training.run_folder.folder import RunFolder


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus"))


def interrupted_at(folder: RunFolder, step: int, elsewhere: Path) -> None:
    """What would lie in the folder had the run been killed right after its save at `step`."""
    copy = RunFolder(elsewhere / folder.path.name)
    copy.checkpoints.mkdir(parents=True)
    shutil.copy(folder.config, copy.config)
    shutil.copy(folder.metrics, copy.metrics)  # including rows the checkpoint knows nothing of
    for path in folder.checkpoints.glob(f"step-{step:08d}.*"):
        shutil.copy(path, copy.checkpoints)


def content(folder: RunFolder) -> dict[str, Any]:
    path = newest(folder)
    assert path is not None
    return torch.load(path, weights_only=True)


def assert_same(first: Any, other: Any, path: str = "") -> None:
    """Equal to the last bit, whatever the nesting."""
    assert type(first) is type(other), path
    if isinstance(first, dict):
        assert first.keys() == other.keys(), path
        for key in first:
            assert_same(first[key], other[key], f"{path}/{key}")
    elif isinstance(first, (list, tuple)):
        assert len(first) == len(other), path
        for index, (left, right) in enumerate(zip(first, other, strict=True)):
            assert_same(left, right, f"{path}/{index}")
    elif isinstance(first, torch.Tensor):
        assert torch.equal(first, other), path
    else:
        assert first == other, path


def losses(folder: RunFolder) -> list[tuple[int, str, float]]:
    rows = read_rows(folder.metrics)
    return [(row["step"], key, row[key]) for row in rows for key in row if key.endswith("/loss")]


@pytest.mark.parametrize(
    ("model", "changes"),
    [
        ("rwkv4", {}),
        ("transformer", {}),
        ("rwkv4", {"trainer__accumulate_grad_batches": 3, "data__workers": 2}),
        (
            "transformer",
            {"trainer__accumulate_grad_batches": 2, "trainer__precision": "bf16-mixed"},
        ),
        ("rwkv4", {"training__gradient_checkpointing": True, "trainer__precision": "bf16-mixed"}),
    ],
)
def test_resumed_run_ends_in_the_same_bits(
    tmp_path: Path, corpus: Path, model: str, changes: dict[str, Any]
) -> None:
    straight_conf = run_conf(tmp_path / "a", corpus, **changes)
    straight_summary, straight = run(straight_conf, model)
    interrupted_at(straight, 4, tmp_path / "b")
    resumed_summary, resumed = run(run_conf(tmp_path / "b", corpus, **changes), model)

    expected, other = content(straight), content(resumed)
    for callbacks in (expected["callbacks"], other["callbacks"]):
        callbacks.pop("Monitor")  # it holds seconds
    for rows in (expected["crossover"]["rows"], other["crossover"]["rows"]):
        rows.pop("sha256")  # of a file that does
    assert expected["global_step"] == 8
    assert_same(expected, other)
    assert losses(straight) == losses(resumed)
    for summary in (straight_summary, resumed_summary):
        for measured in ("train_seconds", "tokens_per_second", "peak_bytes"):
            summary.pop(measured)
        for digest in ("checkpoint_sha256", "sha256"):  # of files that hold seconds
            summary.pop(digest)
    assert straight_summary == resumed_summary


def test_a_finished_run_is_left_alone(tmp_path: Path, corpus: Path) -> None:
    conf = run_conf(tmp_path, corpus, trainer__max_steps=2)
    summary, folder = run(conf)
    before = {path: path.stat().st_mtime_ns for path in folder.path.rglob("*")}
    assert run(conf)[0] == summary
    assert {path: path.stat().st_mtime_ns for path in folder.path.rglob("*")} == before


def test_a_longer_run_continues_a_finished_one(
    tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    used: list[float] = []
    step = AdamW.step

    def stepping(self: AdamW, *args: Any, **kwargs: Any) -> Any:
        used.append(self.param_groups[0]["lr"])
        return step(self, *args, **kwargs)

    monkeypatch.setattr(AdamW, "step", stepping)
    note = "optim.warmup_steps=20 is not below trainer.max_steps=%d: the learning rate only rises"
    first, _ = run(run_conf(tmp_path, corpus, trainer__max_steps=4))
    assert note % 4 in caplog.text
    summary, folder = run(run_conf(tmp_path, corpus, trainer__max_steps=6))
    assert summary["steps"] == 6
    rows = [row for row in read_rows(folder.metrics) if "train/loss" in row]
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]

    # The rate beside a step is the one that it was made with.
    assert [row["train/lr"] for row in rows] == used
    assert used == pytest.approx([1e-3 * number / 20 for number in range(1, 7)])
    assert note % 6 in caplog.text
    assert summary["schedule_changes"] == [
        "after step 4 the learning rate goes on at 0.00025: it only rises until the last step, 6"
    ]

    # Each start warms up for three steps: only step 4 has a rate, and times are sums.
    assert [row["step"] for row in rows if "train/tokens_per_second" in row] == [4]
    assert summary["tokens_per_second"] == first["tokens_per_second"]
    state = content(folder)["callbacks"]["Monitor"]
    assert state["tokens"] == 4 * 32 and summary["train_seconds"] == state["all_seconds"]
    assert summary["train_seconds"] > first["train_seconds"] > state["seconds"] > 0


def test_the_last_two_checkpoints_are_kept(tmp_path: Path, corpus: Path) -> None:
    _, folder = run(run_conf(tmp_path, corpus, checkpoint__every_n_train_steps=2))
    assert [path.name for path in saved(folder)] == ["step-00000006.ckpt", "step-00000008.ckpt"]


def test_a_damaged_checkpoint_falls_back_to_the_one_before(
    tmp_path: Path, corpus: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _, folder = run(run_conf(tmp_path, corpus))
    last = saved(folder)[-1]
    with last.open("r+b") as file:
        file.seek(last.stat().st_size // 2)
        file.write(b"\xff\x00\xff")
    folder.summary_path.unlink()
    summary, _ = run(run_conf(tmp_path, corpus))
    assert "is damaged (its SHA-256 differs" in caplog.text
    assert "continuing from step 4" in caplog.text
    assert summary["steps"] == 8


def test_nothing_is_trained_from_garbage(tmp_path: Path, corpus: Path) -> None:
    _, folder = run(run_conf(tmp_path, corpus))
    for path in saved(folder):
        path.write_bytes(path.read_bytes()[:1000])
    folder.summary_path.unlink()
    with pytest.raises(UserError, match="every checkpoint is damaged"):
        run(run_conf(tmp_path, corpus))


def test_another_configuration_is_refused(tmp_path: Path, corpus: Path) -> None:
    run(run_conf(tmp_path, corpus))
    with pytest.raises(UserError, match=r"optim\.lr=0\.001 then, 0\.5 now"):
        run(run_conf(tmp_path, corpus, optim__lr=0.5))
    with pytest.raises(UserError, match=r"model\.name='rwkv4' then, 'gpt' now"):
        run(run_conf(tmp_path, corpus), "gpt")


def test_a_checkpoint_of_another_model_or_tokenizer_is_refused(
    tmp_path: Path, corpus: Path
) -> None:
    _, folder = run(run_conf(tmp_path / "a", corpus))
    path = str(saved(folder)[-1])
    with pytest.raises(UserError, match=r"belongs to another run: model\.config"):
        run(run_conf(tmp_path / "b", corpus, resume=path), "transformer")
    with pytest.raises(UserError, match="another corpus or tokenizer"):
        run(run_conf(tmp_path / "c", corpus, resume=path, data__tokenizer="chars"))
    assert not (tmp_path / "b").exists() and not (tmp_path / "c").exists()


def test_a_checkpoint_can_start_another_run(tmp_path: Path, corpus: Path) -> None:
    _, folder = run(run_conf(tmp_path / "a", corpus))
    first = str(saved(folder)[0])
    summary, fork = run(run_conf(tmp_path / "b", corpus, resume=first))
    assert summary["steps"] == 8
    assert [row["step"] for row in read_rows(fork.metrics) if "train/loss" in row] == [5, 6, 7, 8]


def test_a_prime_that_is_refused_moves_no_run_aside(tmp_path: Path, corpus: Path) -> None:
    _, folder = run(run_conf(tmp_path, corpus))
    wrong = {"data__order": "magic_prime", "data__magic_prime": 4}
    with pytest.raises(UserError, match="magic_prime=4"):
        run(run_conf(tmp_path, corpus, resume="never", **wrong))
    assert folder.summary() is not None and not list(tmp_path.glob("*.old-*"))


def test_resume_never_keeps_the_old_folder_aside(tmp_path: Path, corpus: Path) -> None:
    (tmp_path / "run").mkdir()  # nothing to keep, as where another process has just done so
    run(run_conf(tmp_path, corpus, resume="never"))
    assert not (tmp_path / "run.old-1").exists()
    _, folder = run(run_conf(tmp_path, corpus, resume="never", trainer__max_steps=2))
    assert [path.name for path in saved(folder)] == ["step-00000002.ckpt"]
    assert len(saved(RunFolder(tmp_path / "run.old-1"))) == 2


def test_a_run_of_before_keys_were_renamed_goes_on(tmp_path: Path, corpus: Path) -> None:
    """Its configuration, and that in its checkpoints, have the old names."""
    conf = run_conf(tmp_path, corpus, trainer__max_steps=4)
    _, folder = run(conf)
    described = yaml.safe_load(folder.config.read_text())
    for old, new in RENAMED.items():
        (section, name), (to, now) = old.split("."), new.split(".")
        described[section][name] = described[to].pop(now)
    folder.config.write_text(yaml.safe_dump(described))
    summary, _ = run(run_conf(tmp_path, corpus, trainer__max_steps=6))
    assert summary["steps"] == 6


def test_auto_precision_stays_what_it_was_when_a_run_goes_on(
    tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Begun where auto meant bf16; this machine would choose fp32, and does for a new run."""
    monkeypatch.setattr("training.run.arithmetic_of", lambda conf: "bf16-mixed")
    short = {"trainer__max_steps": 2, "checkpoint__every_n_train_steps": 2}
    summary, folder = run(run_conf(tmp_path, corpus, **short))
    assert summary["precision"] == "bf16-mixed"
    assert yaml.safe_load(folder.config.read_text())["trainer"]["precision"] == "bf16-mixed"
    monkeypatch.undo()
    longer, _ = run(run_conf(tmp_path, corpus, trainer__max_steps=3))
    assert longer["precision"] == "bf16-mixed" and longer["steps"] == 3
    again, _ = run(run_conf(tmp_path, corpus, trainer__max_steps=1, resume="never"))
    assert again["precision"] == "32-true"
    other, _ = run(run_conf(tmp_path, corpus, trainer__max_steps=1, name="other"))
    assert other["precision"] == "32-true"
