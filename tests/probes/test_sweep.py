from collections import Counter

import pytest

from conf.schema import ProbeConf
from models.errors import UserError
from models.registry import ModelSpec
from probes.rows import ERROR, OK, OOM, TIMEOUT, Row, read_rows
from probes.sweep import describe, run_sweep
from tests.probes.specs import VOCAB, rwkv4, transformer

SPECS = [rwkv4(), transformer()]
POINTS = 2 * (2 * 2 + 2 * 2 + 2)  # contestants x (train, prefill: lengths x sweeps; decode)


def conf(**changes) -> ProbeConf:
    fields = {
        "vocab_size": VOCAB,
        "lengths": [32, 64],
        "fixed_tokens": 128,
        "repeats": 2,
        "decode_steps": 4,
        "accelerator": "cpu",
        "threads": 1,
        "memory_gib": 1.0,
    }
    return ProbeConf(**fields | changes)


def small(**changes) -> ProbeConf:
    """One point per contestant."""
    return conf(probes=["prefill"], sweeps=["batch_1"], lengths=[64], **changes)


def read_key(line: str) -> str:
    return Row.from_json(line).key


def ignore(_row) -> None:
    pass


def test_an_interrupted_sweep_continues_where_it_stopped(tmp_path):
    path = tmp_path / "group" / "probes.jsonl"
    seen = []

    def interrupt_after_three(row) -> None:
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


def test_rows_say_what_was_measured(tmp_path):
    rows = run_sweep(SPECS, small(), tmp_path / "probes.jsonl", ignore)
    assert {row.contestant for row in rows} == {"rwkv4", "transformer"}
    for row in rows:
        assert (row.probe, row.sweep) == ("prefill", "batch_1")
        assert (row.context_length, row.batch) == (64, 1)
        assert len(row.seconds) == 2
        assert 0 < row.peak_bytes < 100 << 20  # without the interpreter and torch: 150 MiB
        assert row.device["kind"] == "cpu"
        assert row.device["threads"] == 1
        assert row.commit == row.versions["crossover"]
        assert "T=64" in describe(row)


def test_measured_again_if_more_repeats_or_another_model_are_asked_for(tmp_path):
    path = tmp_path / "probes.jsonl"
    run_sweep([transformer()], small(), path, ignore)
    again = []
    run_sweep([transformer()], small(repeats=3), path, again.append)
    run_sweep([transformer(n_layer=1)], small(), path, again.append)
    run_sweep([transformer()], small(precision="bfloat16"), path, again.append)
    assert [len(row.seconds) for row in again] == [3, 2, 2]


def test_each_process_is_a_row_and_is_kept(tmp_path):
    path = tmp_path / "probes.jsonl"
    first = run_sweep(SPECS, small(), path, ignore)
    added = []
    rows = run_sweep(SPECS, small(processes=3), path, added.append)
    assert rows[:2] == first
    assert rows[2:] == added
    assert [row.process for row in rows] == [0, 0, 1, 1, 2, 2]
    assert {row.contestant for row in added[:2]} == {"rwkv4", "transformer"}
    assert all(len(row.seconds) == 2 for row in rows)
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:3] + lines[4:]))
    again = []
    run_sweep(SPECS, small(processes=3), path, again.append)
    assert [row.key for row in again] == [read_key(lines[3])]


def test_reuse_of_other_code_is_said(tmp_path, capsys):
    path = tmp_path / "probes.jsonl"
    (row,) = run_sweep([transformer()], small(), path, ignore)
    path.write_text(path.read_text().replace(row.commit, "0" * 40))
    run_sweep([transformer()], small(), path, pytest.fail)
    assert "1 of them were measured at another commit" in capsys.readouterr().out


def test_failures_are_rows_and_are_tried_again(tmp_path):
    path = tmp_path / "probes.jsonl"
    specs = [
        transformer(),
        ModelSpec("odd", "tiny", "models.transformer.Transformer", transformer(n_head=3).config),
        ModelSpec("missing", "tiny", "models.nowhere.Nothing", {}),
    ]
    rows = {row.contestant: row for row in run_sweep(specs, small(), path, ignore)}
    assert rows["transformer"].status == OK
    assert rows["odd"].status == rows["missing"].status == ERROR
    assert "n_head=3" in rows["odd"].error
    assert "models.nowhere" in rows["missing"].error
    assert "error" in describe(rows["odd"])
    again = []
    run_sweep(specs, small(), path, again.append)
    assert {row.contestant for row in again} == {"odd", "missing"}


def test_a_failed_process_is_the_last_of_its_point(tmp_path):
    missing = ModelSpec("missing", "tiny", "models.nowhere.Nothing", {})
    rows = run_sweep([transformer(), missing], small(processes=3), tmp_path / "p.jsonl", ignore)
    counts = Counter((row.contestant, row.status) for row in rows)
    assert counts == {("transformer", OK): 3, ("missing", ERROR): 1}


def test_out_of_memory_is_a_row(tmp_path):
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


def test_timeout_is_a_row(tmp_path):
    """Far more repeats than fit into the time."""
    endless = small(timeout_s=1.0)
    endless.repeats = 10_000_000
    (row,) = run_sweep([transformer()], endless, tmp_path / "probes.jsonl", ignore)
    assert (row.status, row.error) == (TIMEOUT, "stopped after 1 s")


def test_refusals_come_before_any_measurement(tmp_path):
    path = tmp_path / "probes.jsonl"
    for bad in (small(precision="int4"), small(accelerator="tpu"), small(repeats=0)):
        with pytest.raises(UserError):
            run_sweep(SPECS, bad, path, ignore)
    assert not path.exists()
