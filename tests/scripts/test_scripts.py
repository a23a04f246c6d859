"""What a user does, from training to the report, with tiny models on real commands."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.scripts.commands import ROOT, run_script
from tests.training.runs import write_corpus

TINY = ("model.size=tiny", "trainer.max_steps=4", "data.length=32", "wandb.mode=disabled")
Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus"))


def text_words(corpus: Path, runs: Path) -> list[str]:
    return [
        "data=text",
        f"data.paths=[{corpus}]",
        "data.vocab_size=300",
        f"data.cache_dir={corpus.parent / 'cache'}",
        "data.val_fraction=0.1",
        f"runs_dir={runs}",
        *TINY,
    ]


def test_train_then_generate(capfd: Capture, tmp_path: Path, corpus: Path) -> None:
    words = text_words(corpus, tmp_path)
    done = run_script(capfd, "train", "model=rwkv4", "name=first", *words)
    assert done.status == 0, done.err
    assert "validation loss" in done.out and "bits/byte" in done.out
    assert {path.name for path in (tmp_path / "first").iterdir()} == {
        "checkpoints", "config.yaml", "metrics.jsonl", "summary.json", "tokenizer.json",
    }  # fmt: skip
    again = run_script(capfd, "train", "model=rwkv4", "name=first", *words)
    assert "finished (4 steps): nothing to do" in again.err
    assert again.out == done.out

    ask = ["run=first", "prompt=alpha (", "tokens=12", f"runs_dir={tmp_path}"]
    first = run_script(capfd, "generate", *ask)
    assert first.status == 0 and first.out.startswith("alpha (") and len(first.out) > 9
    assert run_script(capfd, "generate", *ask).out == first.out
    assert run_script(capfd, "generate", *ask, "seed=5").out != first.out


def test_a_multirun_gives_every_run_its_own_name(
    capfd: Capture, tmp_path: Path, corpus: Path
) -> None:
    words = text_words(corpus, tmp_path)
    done = run_script(capfd, "train", "-m", "model=rwkv4,transformer,gpt", "group=g", *words)
    assert done.status == 0, done.err
    summaries = [json.loads(path.read_text()) for path in (tmp_path / "g").glob("*/summary.json")]
    assert {one["contestant"] for one in summaries} == {"rwkv4", "transformer", "gpt"}
    assert len({one["order_hash"] for one in summaries}) == 1, "same batches in the same order"


def test_a_failing_job_leaves_the_others_running(
    capfd: Capture, tmp_path: Path, corpus: Path
) -> None:
    words = text_words(corpus, tmp_path)
    run_script(capfd, "train", "model=gpt", "group=g", *words)
    done = run_script(capfd, "train", "-m", "model=gpt,rwkv4", "group=g", "optim.lr=0.01", *words)
    assert done.status == 2
    assert "optim.lr=0.001 then, 0.01 now" in done.err and "Traceback" not in done.err
    assert (tmp_path / "g" / "rwkv4-tiny-text-l32-s0" / "summary.json").is_file()


def test_probe_then_report(capfd: Capture, tmp_path: Path, corpus: Path) -> None:
    shape = ["model.size=tiny", "vocab_size=512", "lengths=[16,32,64]", "fixed_tokens=64"]
    common = [*shape, "repeats=2", "decode_steps=2", f"runs_dir={tmp_path}", "group=g"]
    done = run_script(
        capfd, "probe", "-m", "model=rwkv4,transformer", *common, "wandb.mode=offline"
    )
    assert done.status == 0, done.err
    assert "30 points, 0 of them failed" in done.out
    again = run_script(capfd, "probe", "-m", "model=rwkv4,transformer", *common)
    assert "30 of 30 points" in again.out
    report = run_script(capfd, "report", f"runs=[{tmp_path / 'g'}]", "slope_from=16", "slope_to=64")
    assert report.status == 0, report.err
    result = json.loads((tmp_path / "g" / "report" / "crossover.json").read_text())
    assert {"train", "prefill", "decode", "memory", "state"} <= set(result["crossovers"])
    assert set(result["contestants"]) == {"rwkv4", "transformer"}

    logs = sorted((tmp_path / "g" / "wandb").glob("offline-run-*/run-*.wandb"))
    assert len(logs) == 2
    command = [str(Path(sys.executable).with_name("wandb")), "leet", "inspect", "--json"]
    text = subprocess.run([*command, str(logs[0])], capture_output=True, text=True).stdout
    records = [json.loads(line) for line in text.splitlines()]
    axes = [record["metric"] for record in records if record["type"] == "metric"]
    assert {"glob_name": "probe/*", "step_metric": "context_length"}.items() <= {
        key: value for axis in axes if "glob_name" in axis for key, value in axis.items()
    }.items()
    lengths = [r["history"]["item"]["context_length"] for r in records if r["type"] == "history"]
    assert lengths == [16, 32, 64]


BAD_TRAINING = [
    (["data.paths=[none.txt]"], "none.txt"),
    (["data.paths=[EMPTY]"], "empty"),
    (["data.paths=[BINARY]"], "UTF-8"),
    (["data.paths=[SHORT]"], "data.length"),
    (["data.length=100000"], "data.length=100000"),
    (["name=a/b"], "not a folder name"),
    (["data.tokenizer=none.json"], "no such file"),
    (["data.lenght=3"], "did you mean 'data.length'"),
    (["model.size=6m", "trainer.max_steps=-1"], "must be at least 1"),
]


@pytest.mark.parametrize(("changes", "expected"), BAD_TRAINING)
def test_bad_training_input_is_one_clear_message(
    capfd: Capture, tmp_path: Path, corpus: Path, changes: list[str], expected: str
) -> None:
    files = {"EMPTY": b"", "BINARY": bytes(range(256)) * 40, "SHORT": b"too short"}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    words = [*text_words(corpus, tmp_path / "runs"), *changes]
    words = [word.replace("[EMPTY", f"[{tmp_path}/EMPTY") for word in words]
    words = [word.replace("[BINARY", f"[{tmp_path}/BINARY") for word in words]
    words = [word.replace("[SHORT", f"[{tmp_path}/SHORT") for word in words]
    done = run_script(capfd, "train", *words)
    assert done.status == 2
    assert expected in done.err and "Traceback" not in done.err
    lines = [
        line
        for line in done.err.splitlines()
        if not line.startswith(("prepared ", "the text is too short for data.vocab"))
    ]
    assert all(line.startswith("error: ") for line in lines), done.err
    assert not (tmp_path / "runs").exists()


def test_bad_generation_input(capfd: Capture, tmp_path: Path, corpus: Path) -> None:
    done = run_script(capfd, "generate", "run=nothing", f"runs_dir={tmp_path}")
    assert done.status == 2 and "no such run" in done.err
    words = [*text_words(corpus, tmp_path), "data.tokenizer=chars", "name=chars"]
    assert run_script(capfd, "train", "model=gpt", *words).status == 0
    ask = ["run=chars", f"runs_dir={tmp_path}"]
    done = run_script(capfd, "generate", *ask, "prompt=Ω")
    assert done.status == 2 and "Ω" in done.err and done.err.count("\n") == 1
    assert "Ω" not in done.out, "nothing is printed before the prompt is understood"


def test_probe_that_does_not_fit_is_a_row(capfd: Capture, tmp_path: Path) -> None:
    done = run_script(
        capfd, "probe", "model=transformer", "model.size=tiny", "model.attention=math",
        "vocab_size=64", "lengths=[16,2048]", "probes=[train]", "sweeps=[batch_1]", "repeats=1",
        "memory_gib=0.05", f"runs_dir={tmp_path}", "wandb.mode=disabled",
    )  # fmt: skip
    assert done.status == 0
    rows = [json.loads(line) for line in (tmp_path / "probe/probes.jsonl").read_text().splitlines()]
    assert {row["context_length"]: row["status"] for row in rows} == {16: "ok", 2048: "oom"}


def test_bad_report_input(capfd: Capture, tmp_path: Path) -> None:
    done = run_script(capfd, "report", f"runs=[{tmp_path / 'none'}]")
    assert done.status == 2 and "none" in done.err and done.err.count("\n") == 1
    done = run_script(capfd, "report", f"runs=[{tmp_path}]")
    assert done.status == 2 and done.err.count("\n") == 1


def test_the_process_itself_refuses_with_status_2(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "train.py"), "modle=x", "trainer.max_steps=ten"],
        capture_output=True, text=True, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 2 and done.stdout == ""
    assert len(done.stderr.splitlines()) == 2 and "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


def test_help_is_a_table_of_contents(capfd: Capture) -> None:
    done = run_script(capfd, "train", "--help")
    assert done.status == 0
    for expected in ("model=gpt, rwkv4, rwkv5", "trainer.max_steps", "data.length"):
        assert expected in done.out


def test_doctor_says_what_works(capfd: Capture) -> None:
    done = run_script(capfd, "doctor")
    assert done.status == 0
    for expected in ("reference  ", "ready", "C++ compiler", torch.__version__):
        assert expected in done.out
