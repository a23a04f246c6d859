from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from conf.schema import ProbeConf
from core.errors import UserError
from models.registry import ModelSpec
from probes.measure.points import list_points
from probes.measure.sweep import describe, run_sweep
from probes.rows import (
    ERROR,
    OK,
    OOM,
    PREDICTED_OOM,
    PREDICTED_TIMEOUT,
    TIMEOUT,
    Row,
    read_rows,
)
from tests.probes import works
from tests.probes.specs import VOCAB, rwkv4, transformer

SPECS = [rwkv4(), transformer()]
POINTS = 2 * (2 * 2 + 2 * 2 + 2)  # models x (train, prefill: lengths x sweeps; decode)


def conf(**changes: Any) -> ProbeConf:
    fields = {
        "vocab_size": VOCAB,
        "lengths": [32, 64],
        "fixed_tokens": 128,
        "repeats": 2,
        "relative_half_width": 0.0,
        "remeasure": 0.0,
        "decode_steps": 4,
        "accelerator": "cpu",
        "threads": 1,
        "memory_gib": 1.0,
        "probes": ["train", "prefill", "decode"],
    }
    return ProbeConf(**fields | changes)


def small(**changes: Any) -> ProbeConf:
    """One point per model."""
    return conf(**{"probes": ["prefill"], "sweeps": ["batch_1"], "lengths": [64]} | changes)


def read_key(line: str) -> str:
    return Row.from_json(line).key


def ignore(_row: Row) -> None:
    pass


def test_an_interrupted_sweep_continues_where_it_stopped(tmp_path: Path) -> None:
    path = tmp_path / "group" / "probes.jsonl"
    seen = []

    def interrupt_after_three(row: Row) -> None:
        seen.append(row)
        if len(seen) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_sweep(SPECS, conf(), path, interrupt_after_three)
    assert read_rows(path) == seen
    with path.open("a") as file:
        file.write('{"probe": "tr')  # a crash in the middle of the fourth row

    rows = run_sweep(SPECS, conf(), path, seen.append)
    assert len(rows) == POINTS
    assert read_rows(path) == seen
    assert sorted(row.key for row in rows) == sorted(row.key for row in seen)
    assert len({row.key for row in rows}) == POINTS
    assert {row.status for row in rows} == {OK}

    assert run_sweep(SPECS, conf(), path, pytest.fail) == rows


def test_rows_say_what_was_measured(tmp_path: Path) -> None:
    rows = run_sweep(SPECS, small(), tmp_path / "probes.jsonl", ignore)
    assert {row.model for row in rows} == {"rwkv4", "transformer"}
    for row in rows:
        assert (row.probe, row.sweep) == ("prefill", "batch_1")
        assert (row.context_length, row.batch) == (64, 1)
        assert len(row.seconds) == 2
        assert 0 < row.peak_bytes < 100 << 20  # without the interpreter and torch: 150 MiB
        assert row.device["kind"] == "cpu"
        assert row.device["threads"] == 1
        assert row.commit == row.versions["crossover"]
        assert "T=64" in describe(row)


def test_measured_again_if_more_repeats_or_another_model_are_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "probes.jsonl"
    run_sweep([transformer()], small(), path, ignore)
    again: list[Row] = []
    run_sweep([transformer()], small(repeats=3), path, again.append)
    run_sweep([transformer(rope_base=500.0)], small(), path, again.append)
    run_sweep([transformer()], small(precision="bfloat16"), path, again.append)
    assert [len(row.seconds) for row in again] == [3, 2, 2]


def test_auto_precision_is_that_of_the_rows_that_are_there(tmp_path: Path) -> None:
    path = tmp_path / "probes.jsonl"
    half = run_sweep([transformer()], small(precision="bfloat16"), path, ignore)
    assert run_sweep([transformer()], small(), path, pytest.fail) == half
    plain = run_sweep([transformer()], small(), tmp_path / "other.jsonl", ignore)
    assert [row.precision for row in (*half, *plain)] == ["bfloat16", "float32"]
    assert plain[0].backends == half[0].backends  # which say more of a GPU only


def test_each_process_is_a_row_and_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "probes.jsonl"
    first = run_sweep(SPECS, small(), path, ignore)
    added: list[Row] = []
    rows = run_sweep(SPECS, small(processes=[3]), path, added.append)
    assert rows[:2] == first
    assert rows[2:] == added
    assert [row.process for row in rows] == [0, 0, 1, 1, 2, 2]
    assert {row.model for row in added[:2]} == {"rwkv4", "transformer"}
    assert all(len(row.seconds) == 2 for row in rows)
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:3] + lines[4:]))
    again: list[Row] = []
    run_sweep(SPECS, small(processes=[3]), path, again.append)
    assert [row.key for row in again] == [read_key(lines[3])]


def test_reuse_of_other_code_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "probes.jsonl"
    (row,) = run_sweep([transformer()], small(), path, ignore)
    path.write_text(path.read_text().replace(row.commit, "0" * 40))
    run_sweep([transformer()], small(), path, pytest.fail)
    assert "1 of them were measured at another commit" in capsys.readouterr().out


def test_failures_are_rows_and_are_tried_again(tmp_path: Path) -> None:
    path = tmp_path / "probes.jsonl"
    specs = [
        transformer(),
        ModelSpec("odd", "tiny", "models.transformer.Transformer", transformer(n_head=3).config),
        ModelSpec("missing", "tiny", "models.nowhere.Nothing", {}),
    ]
    rows = {row.model: row for row in run_sweep(specs, small(), path, ignore)}
    assert rows["transformer"].status == OK
    assert rows["odd"].status == rows["missing"].status == ERROR
    assert "n_head=3" in rows["odd"].error
    assert "models.nowhere" in rows["missing"].error
    assert "error" in describe(rows["odd"])
    again: list[Row] = []
    run_sweep(specs, small(), path, again.append)
    assert {row.model for row in again} == {"odd", "missing"}


def test_a_failed_process_is_the_last_of_its_point(tmp_path: Path) -> None:
    missing = ModelSpec("missing", "tiny", "models.nowhere.Nothing", {})
    rows = run_sweep([transformer(), missing], small(processes=[3]), tmp_path / "p.jsonl", ignore)
    counts = Counter((row.model, row.status) for row in rows)
    assert counts == {("transformer", OK): 3, ("missing", ERROR): 1}


def test_out_of_memory_is_a_row(tmp_path: Path) -> None:
    """16 MiB hold the model but not what training on 4096 tokens keeps for backward."""
    few = conf(
        probes=["train"],
        sweeps=["batch_1"],
        lengths=[8, 4096],
        memory_gib=1 / 64,
    )
    rows = run_sweep([transformer()], few, tmp_path / "probes.jsonl", ignore)
    status = {row.context_length: row.status for row in rows}
    assert status == {8: OK, 4096: OOM}
    failed = next(row for row in rows if row.status == OOM)
    assert failed.seconds == []
    assert failed.parameters and failed.flops
    assert failed.peak_bytes is None


def test_timeout_is_a_row(tmp_path: Path) -> None:
    """Far more repeats than fit into the time."""
    endless = small(probes=["train"], lengths=[1], timeout_s=1.0, repeats=3000)
    (row,) = run_sweep([transformer()], endless, tmp_path / "probes.jsonl", ignore)
    assert (row.status, row.error) == (TIMEOUT, "stopped after 1 s")


def test_a_point_that_cannot_fit_is_a_row_and_not_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights and gradients of 25 MiB within 16 MiB."""
    monkeypatch.setattr("probes.measure.runner.measure", works.kill_self)
    large = transformer(n_embd=256, n_layer=4, n_ffn=768)
    few = small(probes=["train"], memory_gib=1 / 64)
    (row,) = run_sweep([large], few, tmp_path / "probes.jsonl", ignore)
    assert row.status == PREDICTED_OOM
    assert "not tried: weights and gradients alone are" in row.error
    assert "predicted_oom: not tried" in describe(row)
    assert read_rows(tmp_path / "probes.jsonl") == [row]


def test_a_timeout_spares_longer_contexts(tmp_path: Path) -> None:
    """The first pass of every length is in an order that the seed sets: shorter ones first here."""
    told = {"probes": ["train"], "lengths": [1, 2, 3], "seed": 4}
    endless = small(timeout_s=1.0, repeats=3000, **told)
    assert [point.length for point in list_points([transformer()], endless)] == [1, 2, 3]
    rows = run_sweep([transformer()], endless, tmp_path / "probes.jsonl", ignore)
    assert [row.status for row in rows] == [TIMEOUT, PREDICTED_TIMEOUT, PREDICTED_TIMEOUT]


def test_a_model_that_kills_the_interpreter_is_a_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("probes.measure.runner.measure", works.crash_if_rwkv4)
    rows = run_sweep(SPECS, small(), tmp_path / "probes.jsonl", ignore)
    status = {row.model: (row.status, row.error) for row in rows}
    assert status == {
        "rwkv4": (ERROR, "the child died of SIGSEGV"),
        "transformer": (OK, None),
    }


def test_the_largest_batch_of_a_budget(tmp_path: Path) -> None:
    """16 MiB hold fewer long caches than short ones, and as many states as ever."""
    few = small(probes=["max_batch"], lengths=[64, 512], memory_budget_gib=1 / 64)
    path = tmp_path / "probes.jsonl"
    rows = run_sweep(SPECS, few, path, ignore)
    most = {(row.model, row.context_length): row.max_batch for row in rows}
    assert {row.status for row in rows} == {OK}
    assert most["transformer", 64] > 4 * most["transformer", 512]
    assert most["rwkv4", 512] > 0.7 * most["rwkv4", 64]
    for row in rows:
        assert row.budget_bytes == 1 << 24 and row.peak_bytes <= row.budget_bytes
        assert row.tried[0]["batch"] == 1
        assert {"batch": row.max_batch, "status": OK, "peak_bytes": row.peak_bytes, "error": None} \
            in row.tried  # fmt: skip
        assert row.flops and row.batch == 1
    assert run_sweep(SPECS, few, path, pytest.fail) == rows
    again: list[Row] = []
    run_sweep([rwkv4()], small(probes=["max_batch"], memory_budget_gib=1 / 32), path, again.append)
    assert [row.budget_bytes for row in again] == [1 << 25], "another budget is another question"


def test_rows_know_the_highest_rate_of_the_device(tmp_path: Path) -> None:
    (row,) = run_sweep([transformer()], small(), tmp_path / "probes.jsonl", ignore)
    assert 1e8 < row.peak_flops < 1e13
    achieved = row.flops / min(row.seconds)
    assert 0 < achieved < 2 * row.peak_flops


def test_refusals_come_before_any_measurement(tmp_path: Path) -> None:
    path = tmp_path / "probes.jsonl"
    for bad in (small(precision="int4"), small(accelerator="tpu"), small(repeats=0)):
        with pytest.raises(UserError):
            run_sweep(SPECS, bad, path, ignore)
    assert not path.exists()
