"""Models of different sizes are refused before anything is measured, or said to differ."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks import busy, repeatability
from conf.schema import BusyConf, ProbeConf, RepeatabilityConf
from core.errors import UserError
from models.meta import count_parameters
from models.registry import ModelSpec
from probes.analysis.comparability import alike, check_sizes
from probes.analysis.dataset import collect
from probes.measure import isolated
from probes.measure.sweep import run_sweep
from probes.measure.tasks.timing import Task
from probes.rows import OK, read_rows
from scripts import probe
from tests.probes.measure.test_sweep import ignore, small
from tests.probes.specs import rwkv4, transformer
from tests.probes.synthetic import make_row, make_rows, write_run
from tests.registered_models import FOLDER, spec_of
from tests.scripts.commands import run_script

Capture = pytest.CaptureFixture[str]
FILE = Path("probes.jsonl")


def test_one_percent_is_the_same_size() -> None:
    assert alike([10_000_000, 10_100_000]) and alike([])
    assert not alike([10_000_000, 10_100_001])


@pytest.mark.parametrize("size", ["tiny", "nano"])
def test_presets_and_options_pass(size: str) -> None:
    specs = [spec_of(name, size, 512) for name in ("gpt", "rwkv7", "lstm", "transformer")]
    specs.append(spec_of("transformer", size, 512, window=16, attention="math"))
    check_sizes(specs, [], FILE)


def test_the_counts_and_the_ways_out_are_named() -> None:
    with pytest.raises(UserError) as caught:
        check_sizes([rwkv4(), transformer(n_ffn=192)], [], FILE)
    message = str(caught.value)
    assert "139,584 (transformer tiny) and 164,480 (rwkv4 tiny)" in message
    for way in ("model.size", "model.n_layer, model.n_embd or model.n_ffn", "unmatched=true"):
        assert way in message
    assert "group=, take" not in message and "\n" not in message


def test_rows_of_the_group_are_compared_too() -> None:
    rows = [make_row("gpt", "train", 256, parameters=151_872)]
    with pytest.raises(UserError) as caught:
        check_sizes([rwkv4()], rows, FILE)
    assert "151,872 (gpt tiny in probes.jsonl) and 164,480 (rwkv4 tiny)" in str(caught.value)
    assert "take another group=" in str(caught.value)
    check_sizes([rwkv4()], [make_row("gpt", "train", 256, parameters=164_000)], FILE)
    check_sizes([rwkv4()], [make_row("gpt", "train", 256, parameters=9, unmatched=True)], FILE)
    check_sizes([rwkv4()], [make_row("gpt", "train", 256, parameters=None)], FILE)


def test_what_cannot_be_built_is_left_to_its_row() -> None:
    missing = ModelSpec("missing", "tiny", "models.nowhere.Nothing", {})
    check_sizes([rwkv4(), missing, transformer(n_head=3)], [], FILE)


def test_no_child_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("run", "preload"):
        monkeypatch.setattr(isolated, name, pytest.fail)
    with pytest.raises(UserError, match="unmatched=true"):
        run_sweep([rwkv4(), rwkv4(n_layer=1)], small(), tmp_path / "probes.jsonl", ignore)
    assert not list(tmp_path.iterdir())


def test_the_command_is_refused_in_one_line(capfd: Capture, tmp_path: Path) -> None:
    done = run_script(
        capfd, "probe", "-m", "model=rwkv4,lstm", "model.size=tiny", "model.n_ffn=64",
        f"runs_dir={tmp_path}",
    )  # fmt: skip
    assert done.status == 2 and done.err.count("\n") == 1
    assert "452,224 (rwkv4 tiny)" in done.err and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("script", "Conf"), [(busy, BusyConf), (repeatability, RepeatabilityConf), (probe, ProbeConf)]
)
def test_every_script_that_sweeps_refuses(script: Any, Conf: Any, tmp_path: Path) -> None:
    models = [yaml.safe_load((FOLDER / f"{name}.yaml").read_text()) for name in ("rwkv4", "lstm")]
    confs = [Conf(model={**model, "n_ffn": 64}, runs_dir=str(tmp_path)) for model in models]
    with pytest.raises(UserError, match="unmatched=true"):
        script.main(confs)
    assert not list(tmp_path.iterdir())


def test_unmatched_is_recorded_and_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(work: Any, arguments: tuple[Any, ...], seconds: float) -> isolated.Outcome:
        device = {"kind": "cpu", "name": "x", "threads": 1, "memory_bytes": 2**30}
        if not isinstance(arguments[0], Task):  # the child that only imports
            facts = {"device": device, "baseline_bytes": 0, "peak_method": "none"}
            return isolated.Outcome(OK, None, facts)
        count = count_parameters(arguments[0].spec)
        return isolated.Outcome(OK, None, {"parameters": count, "seconds": [1.0, 1.0]})

    monkeypatch.setattr(isolated, "run", run)
    monkeypatch.setattr(isolated, "preload", ignore)
    path = tmp_path / "probes.jsonl"
    run_sweep([rwkv4(), transformer(n_ffn=192)], small(unmatched=True), path, ignore)
    assert [row.unmatched for row in read_rows(path)] == [True, True]
    (told,) = collect([tmp_path]).mixed
    assert "number of parameters (by more than 1%) differs: 139,584 of transformer tiny" in told


def test_matched_rows_beside_unmatched_ones_must_match(tmp_path: Path) -> None:
    rows = make_rows(("rwkv4", "gpt"), ("train",), fixed=False)
    odd = make_row("lstm", "train", 256, parameters=5_000_000, unmatched=True, recurrent=True)
    (told,) = collect([write_run(tmp_path / "a", [*rows, odd])]).mixed
    assert "5,000,000 of lstm tiny" in told
    other = make_row("lstm", "train", 256, parameters=5_000_000, recurrent=True)
    with pytest.raises(UserError, match="number of parameters"):
        collect([write_run(tmp_path / "b", [*rows, other])])


def test_a_smaller_variant_is_not_hidden_by_a_larger_one(tmp_path: Path) -> None:
    rows = make_rows(("rwkv4", "gpt"), ("train",), fixed=False)
    small = make_row(
        "gpt", "train", 256, parameters=5_000_000, config={"n_layer": 1, "vocab_size": 4096}
    )
    with pytest.raises(UserError, match="5,000,000 of gpt tiny"):
        collect([write_run(tmp_path / "a", [*rows, small])])
