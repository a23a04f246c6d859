import json
import logging
import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from core.errors import UserError
from models.registry import ModelSpec
from probes.rows import (
    OK,
    Row,
    append_rows,
    check_name_of,
    read_lines,
    read_rows,
)


def make_row(**changes: Any) -> Row:
    row = Row(
        probe="prefill",
        sweep="batch_1",
        model="rwkv4",
        size="tiny",
        target="models.rwkv4.RWKV4",
        config={"n_layer": 2, "vocab_size": 256},
        parameters=1000,
        context_length=512,
        batch=1,
        status=OK,
        error=None,
        seconds=[0.1, 0.2],
        peak_bytes=10,
        peak_method="VmHWM",
        state_bytes=5,
        flops=7,
        flops_dense=8,
        backends={"wkv": "reference"},
        precision="float32",
        seed=0,
        device={"kind": "cpu", "name": "x", "threads": 2, "memory_bytes": 1},
        versions={"torch": "2"},
        commit="unknown",
        load_before=0.5,
        started="2025-01-01T00:00:00+00:00",
        command="python scripts/probe.py",
    )
    return replace(row, **changes)


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "group" / "probes.jsonl"
    rows = [make_row(), make_row(status="oom", error="no memory\nleft", seconds=[])]
    for row in rows:
        append_rows(path, [row])
    assert read_rows(path) == rows
    assert len(path.read_text().splitlines()) == 2


def test_a_full_disk_takes_no_part_of_a_row(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    path = tmp_path / "probes.jsonl"
    append_rows(path, [make_row()])
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 100, limits[1]))
    try:
        with pytest.raises(UserError, match=r"probes.jsonl cannot be written \(.*make room"):
            append_rows(path, [make_row(), make_row()])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before
    with pytest.raises(UserError, match="cannot be written"):
        append_rows(path / "below" / "probes.jsonl", [make_row()])


def test_no_file_is_no_rows(tmp_path: Path) -> None:
    assert read_rows(tmp_path / "probes.jsonl") == []


@pytest.mark.parametrize("torn", ['{"probe": "pre', make_row().to_json()[:-1], "\N{BULLET}"])
def test_torn_line_is_ignored_then_healed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, torn: str
) -> None:
    path = tmp_path / "probes.jsonl"
    append_rows(path, [make_row()])
    with path.open("ab") as file:
        file.write(torn.encode()[:-1] if torn == "\N{BULLET}" else torn.encode())
    with caplog.at_level(logging.WARNING):
        assert read_rows(path) == [make_row()]
    assert "cut short" in caplog.text
    append_rows(path, [make_row(seed=1)])
    assert read_rows(path) == [make_row(), make_row(seed=1)]


DAMAGED = [
    ("not json", "not JSON"),
    (make_row().to_json()[:-40], "not JSON"),
    ('{"probe": "train"}', "missing or unknown fields: backends, batch"),
    ("[1]", "not an object"),
    (make_row(seconds=[0.1, 0.0]).to_json(), "no sense: seconds"),
    (make_row(seconds=[math.nan]).to_json(), "no sense: seconds"),
    (make_row(token_seconds=["1"], max_batch=0).to_json(), "no sense: max_batch, token_seconds"),
    (make_row(disturbed=[True]).to_json(), "disturbed has not one entry"),
    (make_row(disturbed=[0, 1]).to_json(), "no sense: disturbed"),
    (make_row(context_length=0, status="fine").to_json(), "no sense: context_length, status"),
    (make_row(context_length=True, batch="1").to_json(), "no sense: batch, context_length"),
    (make_row(parameters=10**30, peak_bytes=-1).to_json(), "no sense: parameters, peak_bytes"),
    (make_row(load_before=math.inf, flops="7").to_json(), "no sense: flops, load_before"),
    (make_row(seconds=[]).to_json(), "no sense: seconds"),
    (make_row(seconds=[1e300]).to_json(), "no sense: seconds"),
    (make_row(status="oom", seconds=[], token_seconds=[0.1]).to_json(), "no sense: seconds"),
    (make_row(cpu_seconds=[0.1]).to_json(), "cpu_seconds has not one entry"),
    (make_row(started="2025-13-45T99:00:00").to_json(), "no sense: started"),
    (make_row(model="a" * 201, size="a\x1b[31m").to_json(), "no sense: model, size"),
    (make_row(device={"threads": "2"}).to_json(), "device.kind, device.name, device.threads"),
    (make_row(config={"window": -1}).to_json(), "no sense: config.window"),
    (make_row(config={"a": [math.nan]}, options={"a": {}}).to_json(), "no sense: config, options"),
    (make_row(probe="telepathy").to_json(), "no sense: probe"),
    ('{"probe": "train", "probe": "decode"}', "the name 'probe' stands there twice"),
    ("[" * 100_000, "nested more than 50 deep"),
    ("9" * 5000, "a number of 5,000 digits"),
    ("null", "nothing, not an object"),
    (make_row(error="x" * (16 << 20)).to_json(), "longer than 16,777,216 bytes"),
]


@pytest.mark.parametrize(("line", "message"), DAMAGED)
def test_a_damaged_line_is_named_and_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, line: str, message: str
) -> None:
    path = tmp_path / "probes.jsonl"
    append_rows(path, [make_row()])
    with path.open("a") as file:
        file.write(line + "\n")
    append_rows(path, [make_row(seed=1)])
    with caplog.at_level(logging.WARNING):
        found = read_lines(path)
    assert found.rows == {1: make_row(), 3: make_row(seed=1)}
    (told,) = found.damaged
    assert f"{path}, line 2: left out" in told and message in told
    assert caplog.messages == [told]
    assert "\n" not in told


def test_a_last_row_without_its_newline_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "probes.jsonl"
    path.write_text(make_row().to_json())
    assert read_lines(path).damaged == ()
    append_rows(path, [make_row(seed=1)])
    assert read_rows(path) == [make_row(), make_row(seed=1)]


def test_what_is_no_file_of_rows_is_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "probes.jsonl"
    os.mkfifo(path)
    with pytest.raises(UserError, match=r"probes.jsonl: a pipe, not a file"):
        read_rows(path)
    path.unlink()
    path.write_text("\n" * 10)
    with caplog.at_level(logging.WARNING):
        assert len(read_lines(path).damaged) == 10
    assert len(caplog.messages) == 6 and "5 more lines are left out" in caplog.messages[-1]
    path.write_text("\n" * 2000)
    with pytest.raises(UserError, match="more than 1,000 of the first 1,001 lines"):
        read_rows(path)


def test_names_that_rows_cannot_hold_are_refused(tmp_path: Path) -> None:
    check_name_of(ModelSpec("a" * 200, "tiny", "models.a.A", {}))
    for name in ("a" * 201, "a\nb"):
        with pytest.raises(UserError, match=r"model.name=.*: at most 200 characters"):
            check_name_of(ModelSpec(name, "tiny", "models.a.A", {}))


def test_rows_written_before_there_were_more_fields_are_read(tmp_path: Path) -> None:
    path = tmp_path / "probes.jsonl"
    old = json.loads(make_row().to_json())
    younger = {
        "process", "token_seconds", "memory", "energy_joules", "energy_method", "peak_flops",
        "max_batch", "budget_bytes", "tried", "cpu_seconds", "involuntary", "others", "pressure",
        "steal", "disturbed", "visit",
    }  # fmt: skip
    for name in younger:
        del old[name]
    path.write_text(json.dumps(old) + "\n")
    (row,) = read_rows(path)
    assert row == make_row(process=0)
    assert (row.token_seconds, row.energy_method, row.max_batch) == ([], "unavailable", None)
    assert row.key == make_row().key
    assert not row.is_disturbed and row.undisturbed == row.seconds


def test_rows_with_fields_under_their_old_names_are_read(tmp_path: Path) -> None:
    path = tmp_path / "probes.jsonl"
    old = {
        {"model": "contestant"}.get(k, k): v for k, v in json.loads(make_row().to_json()).items()
    }
    path.write_text(json.dumps(old) + "\n")
    assert "contestant" in old and read_rows(path) == [make_row()]
    path.write_text(json.dumps(old | {"model": "gpt"}) + "\n")
    assert read_rows(path) == []  # which of the two is right?


@pytest.mark.parametrize(
    ("disturbed", "kept"),
    [
        ([], True),
        ([False], True),
        ([True], False),
        ([True, False], True),
        ([True, True, False], False),
        ([True, False, False], True),
        ([True] * 40 + [False] * 2, False),
        ([True] * 40 + [False] * 3, True),
    ],
)
def test_a_row_is_disturbed_if_too_few_repeats_were_left_alone(
    disturbed: list[bool], kept: bool
) -> None:
    seconds = [1.0 + bad for bad in disturbed] or [1.0]
    row = make_row(seconds=seconds, disturbed=disturbed)
    assert row.is_disturbed is not kept
    assert row.undisturbed == ([1.0] * max(1, disturbed.count(False)) if kept else seconds)
    assert not replace(row, status="oom").is_disturbed


@pytest.mark.parametrize(
    "change",
    [
        {"model": "gpt"},
        {"config": {"n_layer": 3, "vocab_size": 256}},
        {"probe": "train"},
        {"sweep": "fixed_tokens"},
        {"context_length": 1024},
        {"batch": 2},
        {"precision": "bfloat16"},
        {"seed": 1},
        {"process": 1},
        {"device": {"kind": "cpu", "name": "y", "threads": 2}},
    ],
)
def test_key_tells_points_apart(change: dict[str, Any]) -> None:
    assert make_row(**change).key != make_row().key


def test_key_ignores_what_was_measured() -> None:
    other = make_row(seconds=[9.0], status="oom", commit="abc", parameters=None, started="later")
    assert other.key == make_row().key
