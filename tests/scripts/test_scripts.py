"""What a user does, from training to the report, with tiny models on real commands."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from conf.schema import PROBES
from probes.rows import append_rows, read_rows
from tests.probes.synthetic import failed, make_rows, write_run
from tests.registered_models import EVERY
from tests.scripts.commands import ONCE, ROOT, run_script
from tests.training.records import recorded
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
    one, greedy = (
        run_script(capfd, "generate", *ask, word) for word in ("beam=1", "temperature=0")
    )
    assert one.status == 0 and one.out == greedy.out

    (tmp_path / "prompts.jsonl").write_text('{"prompt": "alpha ("}\n{"prompt": "def", "id": 2}\n')
    files = [f"prompts={tmp_path}/prompts.jsonl", f"out={tmp_path}/out.jsonl"]
    ask.remove("prompt=alpha (")
    done = run_script(capfd, "generate", *ask, *files)
    assert done.status == 0 and done.out == f"written to {tmp_path}/out.jsonl\n", done
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["prompt"] for row in rows] == ["alpha (", "def"] and rows[1]["id"] == 2
    assert all(row["answer"]["text"] for row in rows)
    for words, message in (
        (files, "is there already"), (files[:1], "go together"),
        ([*files, "prompt=a"], "give one of them"),
        ([f"prompts={tmp_path}/none", f"out={tmp_path}/x"], "none: no such file"),
    ):  # fmt: skip
        done = run_script(capfd, "generate", *ask, *words)
        assert done.status == 2 and message in done.err, done


def test_a_multirun_gives_every_run_its_own_name(
    capfd: Capture, tmp_path: Path, corpus: Path
) -> None:
    words = text_words(corpus, tmp_path)
    done = run_script(capfd, "train", "-m", "model=rwkv4,transformer,gpt", "group=g", *words)
    assert done.status == 0, done.err
    summaries = [json.loads(path.read_text()) for path in (tmp_path / "g").glob("*/summary.json")]
    assert {summary["model"] for summary in summaries} == {"rwkv4", "transformer", "gpt"}
    assert len({summary["order_hash"] for summary in summaries}) == 1, (
        "same batches in the same order"
    )


def test_a_failing_job_leaves_the_others_running(
    capfd: Capture, tmp_path: Path, corpus: Path
) -> None:
    words = [*text_words(corpus, tmp_path), "name=${model.name}"]
    run_script(capfd, "train", "model=gpt", "group=g", *words)
    done = run_script(capfd, "train", "-m", "model=gpt,rwkv4", "group=g", "optim.lr=0.01", *words)
    assert done.status == 2
    assert "optim.lr=0.001 then, 0.01 now" in done.err and "Traceback" not in done.err
    assert (tmp_path / "g" / "rwkv4" / "summary.json").is_file()
    assert done.err.splitlines()[-2] == "error: 1 of 2 runs failed"


def test_a_crashing_job_leaves_the_others_running(
    capfd: Capture, tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("CUDA error: device-side assert\nand much more")

    monkeypatch.setattr("models.gpt.GPT.objective", crash)
    words = [word for word in text_words(corpus, tmp_path) if word != "wandb.mode=disabled"]
    words.append("wandb.mode=offline")
    done = run_script(capfd, "train", "-m", "model=rwkv4,gpt,transformer", "group=g", *words)
    assert done.status == 1
    assert done.err.splitlines()[-2:] == [
        "error: 1 of 3 runs failed",
        "error: model=gpt: RuntimeError: CUDA error: device-side assert",
    ]
    records = recorded(tmp_path / "g")
    models = ("rwkv4", "gpt", "transformer")
    names = [
        next(name for name in records if name.startswith(f"{model}-tiny-")) for model in models
    ]
    assert [records[name].exit_code for name in names] == [0, 1, 0]
    assert {record.run["run_group"] for record in records.values()} == {"g"}
    assert len({record.run["run_id"] for record in records.values()}) == 3
    assert [(tmp_path / "g" / name / "summary.json").is_file() for name in names] == [
        True, False, True,
    ]  # fmt: skip


def test_probe_then_report(capfd: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shape = ["model.size=tiny", "vocab_size=512", "lengths=[16,32,64]", "fixed_tokens=64"]
    shape += ["probes=[train,prefill,decode]"]
    common = [
        *shape,
        "repeats=2",
        "decode_steps=2",
        *ONCE,
        f"runs_dir={tmp_path}",
        "group=g",
    ]
    done = run_script(
        capfd, "probe", "-m", "model=rwkv4,transformer", *common, "wandb.mode=offline"
    )
    assert done.status == 0, done.err
    assert "30 measurements, 0 of them failed" in done.out
    again = run_script(capfd, "probe", "-m", "model=rwkv4,transformer", *common)
    assert "30 of 30 points" in again.out
    window = ["slope_from=16", "slope_to=64", "wandb.mode=offline"]
    report = run_script(capfd, "report", f"runs=[{tmp_path / 'g'}]", *window)
    assert report.status == 0, report.err
    result = json.loads((tmp_path / "g" / "report" / "crossover.json").read_text())
    assert {"train", "prefill", "decode", "memory", "state"} <= set(result["crossovers"])
    assert set(result["models"]) == {"rwkv4", "transformer"}

    logs = list((tmp_path / "g" / "wandb").glob("offline-run-*"))
    assert len(logs) == 3, "points that were measured before are not logged again"
    records = recorded(tmp_path / "g")
    rows = read_rows(tmp_path / "g/probes.jsonl")
    for name in ("rwkv4", "transformer"):
        record = records[f"probe-{name}-tiny"]
        assert (record.run["run_group"], record.run["job_type"]) == ("g", "probe")
        assert record.config["model.vocab_size"] == 512
        assert record.axes == {"probe/*": "context_length"}
        points = [row for row in record.history if "context_length" in row]
        assert [row["context_length"] for row in points] == [16, 32, 64]
        for point in points:
            check_curve(point, name, result)
        columns, data = record.table("rows")
        assert len(data) == 15 and {row[columns.index("model")] for row in data} == {name}

    record = records["report"]
    assert (record.run["run_group"], record.run["job_type"]) == ("g", "report")
    assert len(record.table("report/rows")[1]) == len(rows) == 30
    columns, data = record.table("report/curves")
    assert len(data) == sum(
        len(points) for curve in result["curves"].values() for points in curve["points"].values()
    )
    columns, data = record.table("report/ratios")
    for row in data:
        ratio = result["crossovers"][row[0]]["ratios"][str(row[3])]
        assert [ratio[name] for name in columns[4:]] == row[4:]
    columns, data = record.table("report/crossovers")
    assert all(row[columns.index("kind")] for row in data)
    assert {row[columns.index("measure")]: row[columns.index("length")] for row in data} == {
        key: entry.get("length") for key, entry in result["crossovers"].items()
    }
    page = tmp_path / "g" / "report" / "index.html"
    assert record.media("report/page").read_text() == page.read_text()
    (artifact,) = record.artifacts("report")
    assert artifact["name"] == "report-g"
    assert {"index.html", "rows.csv", "crossover.json", "crossover.png"} <= {
        entry["path"] for entry in artifact["manifest"]["contents"]
    }

    for path in (tmp_path / "g" / "wandb").glob("probe-*.id"):
        path.unlink()  # as if these rows had never been logged
    monkeypatch.setitem(sys.modules, "wandb", None)
    for script, words in (
        ("probe", ["-m", "model=rwkv4,transformer", *common]),
        ("report", [f"runs=[{tmp_path / 'g'}]", *window]),
    ):
        done = run_script(capfd, script, *words)
        assert done.status == 0
        assert "wandb: ModuleNotFoundError" in done.err and "Traceback" not in done.err


def check_curve(point: dict[str, Any], name: str, result: dict[str, Any]) -> None:
    """What a wandb curve shows at a length is what the report draws there."""
    length = point["context_length"]
    for key, curve in result["curves"].items():
        drawn = {point["length"]: point for point in curve["points"][name]}
        if curve["unit"] != "s" or key == "decode_p95" or length not in drawn:
            continue
        prefix, full = f"probe/{curve['probe']}/{curve['sweep']}", curve["sweep"] == "fixed_tokens"
        tokens = 64 if full else 1 if curve["probe"] == "decode" else length
        if drawn[length]["status"] == "disturbed":  # held up by others, the time is left out
            assert f"{prefix}/seconds" not in point
            continue
        seconds = drawn[length]["value"] * (tokens if full else 1)
        assert point[f"{prefix}/seconds"] == pytest.approx(seconds)
        assert point[f"{prefix}/tokens_per_second"] == pytest.approx(tokens / seconds)
        used = result["use"][name].get(curve["probe"], {}).get(str(length))
        if used and not full:
            assert point.get(f"{prefix}/mfu") == used["mfu"]


@pytest.mark.slow
@pytest.mark.usefixtures("no_pictures")
def test_three_kinds_of_memory_in_one_group(capfd: Capture, tmp_path: Path) -> None:
    common = ["model.size=tiny", "vocab_size=512", "lengths=[16,32]", "sweeps=[batch_1]"]
    common += ["probes=[train]", "repeats=1", *ONCE, f"runs_dir={tmp_path}", "group=g"]
    for words in (
        ["-m", "model=rwkv4,transformer", "wandb.mode=disabled"],
        ["-m", "model=transformer", "model.attention=math", "model.window=null,8"],
        ["model=transformer", "model.window=8", "wandb.mode=disabled"],
    ):
        done = run_script(capfd, "probe", *words, *common)
        assert done.status == 0, done.err
    assert "transformer window 8 train" in done.out
    assert len(list((tmp_path / "g" / "wandb").glob("offline-run-*"))) == 2
    report = run_script(capfd, "report", f"runs=[{tmp_path / 'g'}]", "slope_from=16", "slope_to=64")
    assert report.status == 0, report.err
    result = json.loads((tmp_path / "g" / "report" / "crossover.json").read_text())
    assert set(result["models"]) == {
        "rwkv4", "transformer", "transformer math", "transformer math window 8",
        "transformer window 8",
    }  # fmt: skip


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
        "memory_gib=0.05", f"runs_dir={tmp_path}", "wandb.mode=disabled", *ONCE,
    )  # fmt: skip
    assert done.status == 0
    rows = [json.loads(line) for line in (tmp_path / "probe/probes.jsonl").read_text().splitlines()]
    assert {row["context_length"]: row["status"] for row in rows} == {16: "ok", 2048: "oom"}


@pytest.mark.slow
@pytest.mark.usefixtures("no_pictures")
def test_every_probe_then_a_priced_report(capfd: Capture, tmp_path: Path) -> None:
    words = ["model.size=tiny", "vocab_size=256", "lengths=[16,32]", "sweeps=[batch_1]"]
    words += ["threads=1", f"probes=[{','.join(PROBES)}]", "repeats=1", "decode_steps=4", "group=g"]
    words += ["memory_budget_gib=0.01", *ONCE, f"runs_dir={tmp_path}", "wandb.mode=offline"]
    done = run_script(capfd, "probe", "-m", "model=rwkv4,transformer", *words)
    assert done.status == 0, done.err
    assert f"{2 * 2 * len(PROBES)} measurements, 0 of them failed" in done.out
    record = recorded(tmp_path / "g")["probe-rwkv4-tiny"]
    (point,) = (row for row in record.history if row.get("context_length") == 32)
    assert point["probe/max_batch/batch_1/max_batch"] > 1
    undisturbed = {
        row.probe
        for row in read_rows(tmp_path / "g/probes.jsonl")
        if row.model == "rwkv4" and row.context_length == 32 and not row.is_disturbed
    }
    if "decode" in undisturbed:
        slow, usual = (point[f"probe/decode/batch_1/{name}_seconds"] for name in ("p95", "p50"))
        assert slow >= usual
    if "train" in undisturbed:
        assert 0 < point["probe/train/batch_1/mfu"] < 1

    window = ["slope_from=16", "slope_to=64", "wandb.mode=disabled"]
    paid = ["price_per_hour=1.20", "currency=EUR"]
    report = run_script(capfd, "report", f"runs=[{tmp_path / 'g'}]", *window, *paid)
    assert report.status == 0, report.err
    assert report.out.count("index.html") == 1 and "EUR" not in report.out
    assert max(map(len, report.out.splitlines()[:-1])) <= 80
    result = json.loads((tmp_path / "g" / "report" / "crossover.json").read_text())
    assert {"ttft", "generate", "layer", "operator", "max_batch"} <= set(result["crossovers"])
    page = (tmp_path / "g" / "report" / "index.html").read_text()
    assert "1.20 EUR an hour" in page.replace("\u00a0", " ")
    for title in ("The operator that mixes tokens", "The largest batch in a fixed memory"):
        assert title in page


@pytest.mark.usefixtures("no_pictures")
def test_a_report_of_what_is_left(capfd: Capture, tmp_path: Path) -> None:
    """A model that crashed the interpreter, a line cut short, another machine."""
    rows = make_rows(("rwkv4", "gpt"), ("train",), fixed=False)
    crash = failed("rwkv4", "train", 16384, "error", error="the child died of SIGSEGV")
    run = write_run(tmp_path / "run", [*rows, crash])
    with (run / "probes.jsonl").open("a") as file:
        file.write('{"probe": "tra')
    report = run_script(capfd, "report", f"runs=[{run}]", "wandb.mode=disabled")
    assert report.status == 0
    assert f"probes.jsonl, line {len(rows) + 2}: left out" in report.err + report.out
    assert "the line is cut short" in report.err + report.out
    page = (run / "report" / "index.html").read_text()
    assert "the child died of SIGSEGV" in page and "cut short" in page

    elsewhere = {**rows[0].device, "name": "Other CPU"}
    append_rows(tmp_path / "other" / "probes.jsonl", [replace(rows[0], device=elsewhere)])
    both = f"runs=[{run},{tmp_path / 'other'}]"
    done = run_script(capfd, "report", both, "wandb.mode=disabled")
    assert done.status == 2 and "Traceback" not in done.err
    message = done.err.splitlines()[-1]
    assert "device differs: cpu Test CPU" in message and "cpu Other CPU" in message
    assert f"{tmp_path / 'other' / 'probes.jsonl'}, line 1" in message
    done = run_script(capfd, "report", both, "allow_mixed=true", "wandb.mode=disabled")
    assert done.status == 0 and "Unlike measurements are compared here" in done.out


def test_an_empty_sweep(capfd: Capture, tmp_path: Path) -> None:
    for words, expected in (
        (["lengths=[]"], "lengths=[]: give at least one context length"),
        (["probes=[]"], "probes=[]: give at least one probe"),
        (["sweeps=[]"], "sweeps=[]: give at least one sweep"),
    ):
        done = run_script(capfd, "probe", "model.size=tiny", f"runs_dir={tmp_path}", *words)
        assert done.status == 2 and done.err == f"error: {expected}\n"
    (tmp_path / "probes.jsonl").write_text("")
    done = run_script(capfd, "report", f"runs=[{tmp_path}]")
    assert done.status == 2 and "no probe rows in" in done.err


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
    for expected in (f"model={', '.join(EVERY)}", "trainer.max_steps", "data.length"):
        assert expected in " ".join(done.out.split())  # long lists are wrapped


def test_doctor_says_what_works(capfd: Capture) -> None:
    done = run_script(capfd, "doctor")
    assert done.status == 0
    for expected in ("reference  ", "ready", "C++ compiler", torch.__version__):
        assert expected in done.out
