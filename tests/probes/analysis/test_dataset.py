"""What is read, and what is refused."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from core.errors import UserError
from probes.analysis.dataset import collect
from probes.rows import Row
from tests.probes.synthetic import failed, make_row, make_rows, make_summary, write_run

HERE = {"kind": "cpu", "name": "Test CPU", "threads": 2, "memory_bytes": 2**34}


def test_rows_and_trainings_are_found(tmp_path: Path) -> None:
    rows = make_rows(("gpt", "rwkv4"))
    folder = write_run(tmp_path / "a", rows, make_summary("rwkv4", 3.3), make_summary("gpt", 3.2))
    dataset = collect([folder])
    assert len(dataset.rows) == len(rows)
    assert [series.label for series in dataset.all_series] == ["rwkv4", "gpt"]
    assert [run["name"] for run in dataset.trainings] == ["gpt-tiny", "rwkv4-tiny"]
    assert [run["val_loss"] for run in dataset.trainings_of(dataset.all_series[0])] == [3.3]
    # A training's own folder may be named as well, and counts once.
    again = collect([folder, folder / "gpt-tiny"])
    assert len(again.trainings) == 2


def test_trainings_that_were_set_aside_are_no_part_of_a_group(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a", make_rows(("gpt",)), make_summary("gpt", 3.2))
    (folder / "gpt-tiny").rename(folder / "gpt-tiny.old-1")
    write_run(folder, [], make_summary("gpt", 3.1))
    assert [run["val_loss"] for run in collect([folder]).trainings] == [3.1]


def test_a_large_folder_of_other_things_is_one_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "abcd":
        (tmp_path / name).mkdir()
    monkeypatch.setattr("probes.training_runs.MOST_RUNS", 3)
    with pytest.raises(UserError, match=": 4 folders, and a group has at most 3 runs; runs= takes"):
        collect([tmp_path])


def test_a_point_measured_again_replaces_its_first_row(tmp_path: Path) -> None:
    first = failed("gpt", "train", 256, "oom", commit="older")
    again = make_row("gpt", "train", 256)
    dataset = collect([write_run(tmp_path / "a", [first, make_row("rwkv4", "train", 256), again])])
    assert [row.status for row in dataset.rows] == ["ok", "ok"]


def test_missing_folder_and_missing_rows_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        collect([tmp_path / "nowhere"])
    with pytest.raises(UserError, match="no probe rows"):
        collect([tmp_path])
    (tmp_path / "probes.jsonl").write_text("")
    with pytest.raises(UserError, match="no probe rows"):
        collect([tmp_path])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"device": HERE | {"name": "Other CPU"}},
            "device differs: cpu Test CPU (FILE, line 1) and cpu Other CPU (FILE, line 37)",
        ),
        (
            {"device": HERE | {"threads": 4}},
            "number of threads differs: 2 (FILE, line 1) and 4 (FILE, line 37)",
        ),
        (
            {"precision": "bfloat16"},
            "precision differs: float32 (FILE, line 1) and bfloat16 (FILE, line 37)",
        ),
        (
            {"config": {"vocab_size": 256}},
            "vocabulary size differs: 4096 (FILE, line 1) and 256 (FILE, line 37)",
        ),
        (
            {"versions": {"torch": "2.11.0"}},
            "torch version differs: 2.13.0 (FILE, line 1) and 2.11.0 (FILE, line 37)",
        ),
        (
            {"versions": {"torch": "2.13.0", "cuda": "13.0"}},
            "CUDA version differs: None (FILE, line 1) and 13.0 (FILE, line 37)",
        ),
        (
            {"commit": "feed"},
            "crossover commit differs: 0123456789abcdef (FILE, line 1) and feed (FILE, line 37)",
        ),
        (
            {"parameters": 10_200_000},
            "number of parameters (by more than 1%) differs: 10,000,000 of rwkv4 tiny (FILE, line "
            "1) and 10,200,000 of gpt tiny (FILE, line 37)",
        ),
        (
            {"batch": 2},
            "batch of train at 256 tokens in the batch_1 sweep differs: 1 (FILE, line 1) and 2 "
            "(FILE, line 37)",
        ),
    ],
)
def test_mixed_rows_are_refused_unless_allowed(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    odd = make_row("gpt", "train", 256, **({"seed": 1} | changes))
    folder = write_run(tmp_path / "a", [*make_rows(fixed=False), odd])
    message = message.replace("FILE", str(folder / "probes.jsonl"))
    with pytest.raises(UserError) as caught:
        collect([folder])
    assert message in str(caught.value)
    assert "allow_mixed=true" in str(caught.value)
    assert "\n" not in str(caught.value)
    dataset = collect([folder], allow_mixed=True)
    assert len(dataset.rows) == 37
    assert dataset.mixed == (message,)


def test_all_that_differs_is_named_with_both_files(tmp_path: Path) -> None:
    here = write_run(tmp_path / "a", make_rows(fixed=False))
    there = [make_row("gpt", "train", t, commit="feed", precision="bfloat16") for t in (256, 512)]
    other = write_run(tmp_path / "b", there)
    with pytest.raises(UserError) as caught:
        collect([here, other])
    for words in ("precision differs", "crossover commit differs", f"{other / 'probes.jsonl'}, l"):
        assert words in str(caught.value)
    assert collect([here, here]).mixed == ()
    assert len(collect([here, here]).rows) == 36


def test_damaged_lines_are_named_and_the_rest_is_read(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a", make_rows(fixed=False))
    path = folder / "probes.jsonl"
    lines = path.read_text().splitlines()
    lines[4] = lines[4][:100]
    path.write_text("\n".join(lines)[:-30])  # the last line is cut short too
    dataset = collect([folder])
    assert len(dataset.rows) == 34
    assert [message.split(": ")[0] for message in dataset.damaged] == [
        f"{path}, line 5", f"{path}, line 36",
    ]  # fmt: skip
    path.write_text("nothing here\n")
    with pytest.raises(UserError, match=r"no probe rows in .* \(1 damaged line or file was left"):
        collect([folder])


def test_sizes_within_one_percent_are_equal(tmp_path: Path) -> None:
    rows = [make_row("rwkv4", "train", 256), make_row("gpt", "train", 256, parameters=10_100_000)]
    assert len(collect([write_run(tmp_path / "a", rows)]).pairs) == 1


@pytest.mark.parametrize(
    "field", ["tokens", "order_hash", "data_fingerprint", "precision", "packing"]
)
def test_trainings_on_different_data_are_refused(tmp_path: Path, field: str) -> None:
    unlike = make_summary("gpt", 3.2) | {field: 7 if field == "tokens" else "other"}
    folder = write_run(tmp_path / "a", make_rows(), make_summary("rwkv4", 3.3), unlike)
    paths = [folder / f"{name}-tiny" / "summary.json" for name in ("rwkv4", "gpt")]
    with pytest.raises(UserError, match=f"{field} of the trainings differs") as caught:
        collect([folder])
    assert all(str(path) in str(caught.value) for path in paths)
    assert len(collect([folder], allow_mixed=True).trainings) == 2


def test_trainings_whose_order_is_unknown_are_refused(tmp_path: Path) -> None:
    unknown = [make_summary(name, 3.2) | {"order_hash": None} for name in ("rwkv4", "gpt")]
    folder = write_run(tmp_path / "a", make_rows(), *unknown)
    with pytest.raises(UserError, match="order_hash of the trainings is unknown"):
        collect([folder])
    alone = write_run(tmp_path / "b", make_rows(), unknown[0])
    assert collect([alone]).mixed == ()


SUMMARIES: dict[str, Any] = {
    "not JSON": b"{",
    "not UTF-8": b'{"name": "\xff"}',
    "holds nothing, not an object": b"null",
    "nested more than 50 deep": b"[" * 100_000,
    "without model": {},
    "no sense: val_loss": {"model": "gpt", "val_loss": "3", "val_bits_per_byte": 2},
    "no sense: val_bits_per_byte": make_summary("gpt", 3.2, val_bits_per_byte=float("nan")),
    "no sense: tokens_per_second": make_summary("gpt", 3.2, tokens_per_second=-1.0),
    "no sense: options": make_summary("gpt", 3.2, options={"window": [1]}),
    "no sense: tokens": make_summary("gpt", 3.2, forward_flops=10, tokens=None),
}


@pytest.mark.parametrize("why", SUMMARIES)
def test_a_broken_summary_is_named_and_left_out(tmp_path: Path, why: str) -> None:
    folder = write_run(tmp_path / "a", make_rows(), make_summary("rwkv4", 3.3))
    content = SUMMARIES[why]
    content = content if isinstance(content, bytes) else json.dumps(content).encode()
    (folder / "summary.json").write_bytes(content)
    dataset = collect([folder])
    assert [run["name"] for run in dataset.trainings] == ["rwkv4-tiny"]
    (told,) = dataset.damaged
    assert told.startswith(f"{folder / 'summary.json'}: left out, ") and why in told
    assert "\n" not in told


def test_a_summary_that_is_a_pipe_or_a_folder_is_named(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a", make_rows())
    os.mkfifo(folder / "summary.json")
    (folder / "one" / "summary.json").mkdir(parents=True)
    assert [told.partition("left out, ")[2] for told in collect([folder]).damaged] == [
        "a pipe, not a file", "a folder, not a file",
    ]  # fmt: skip


def test_more_than_a_report_can_show_is_refused(tmp_path: Path) -> None:
    rows = [make_row(f"one{n}", "train", 256, recurrent=n < 15) for n in range(25)]
    with pytest.raises(UserError, match="25 models and variants make 150 comparisons"):
        collect([write_run(tmp_path / "a", rows)])


def test_variants_of_a_model_become_arms_of_their_own(tmp_path: Path) -> None:
    rows = make_rows(fixed=False)
    base = rows[1].config
    for kernel in ("flash", "math"):
        for length in (256, 512):
            config = base | {"attention": kernel}
            kernels = {"attention": kernel}
            rows.append(make_row("transformer", "train", length, config=config, backends=kernels))
    dataset = collect([write_run(tmp_path / "a", rows)])
    assert [series.label for series in dataset.all_series] == [
        "rwkv4", "gpt", "transformer flash", "transformer math",
    ]  # fmt: skip
    assert dataset.all_series[3].backends() == {"attention": ["math"]}
    assert len(dataset.pairs) == 3


def windowed_rows(kernel: str, step: str, lengths: tuple[int, ...], **options: Any) -> list[Row]:
    """Training rows of a Transformer with options, as a sweep writes them; the last ran out."""
    config = make_row("transformer", "train", 256).config | {"attention": "auto", **options}
    ran = {"attention": kernel, "step": step}
    good, last = lengths[:-1], lengths[-1]
    rows = [make_row("transformer", "train", n, config=config, backends=ran) for n in good]
    return [*rows, failed("transformer", "train", last, "oom", config=config)]


def test_options_are_named_and_keep_their_failed_points(tmp_path: Path) -> None:
    rows = [make_row("rwkv4", "train", 256)]
    rows += windowed_rows("flash", "cpu", (256, 512, 1024, 2048))
    rows += windowed_rows("math", "torch", (256, 512, 1024), attention="math")
    rows += windowed_rows("flash", "cpu", (256, 512), window=256)
    rows += windowed_rows("math", "torch", (512, 1024), attention="math", window=64)
    all_series = collect([write_run(tmp_path / "a", rows)]).all_series
    assert {series.label: len(series.rows) for series in all_series} == {
        "rwkv4": 1, "transformer": 4, "transformer math": 3, "transformer math window 64": 2,
        "transformer window 256": 2,
    }  # fmt: skip
    assert [series.window for series in all_series] == [None, None, None, 64, 256]


def test_a_lone_window_is_named_too(tmp_path: Path) -> None:
    rows = windowed_rows("flash", "cpu", (256, 512), window=256)
    (series,) = collect([write_run(tmp_path / "a", rows)]).all_series
    assert series.label == "transformer window 256"


def test_a_training_belongs_to_its_window(tmp_path: Path) -> None:
    rows = [*windowed_rows("flash", "cpu", (256, 512))]
    rows += windowed_rows("math", "torch", (256, 512), attention="math")
    rows += windowed_rows("flash", "cpu", (256, 512), window=256)
    full, windowed = (make_summary("transformer", loss) for loss in (3.2, 3.4))
    windowed |= {"name": "windowed", "config": {"attention": "auto", "window": 256}}
    windowed |= {"options": {"window": 256}}
    dataset = collect([write_run(tmp_path / "a", rows, full, windowed)])
    losses = [
        [run["val_loss"] for run in dataset.trainings_of(series)] for series in dataset.all_series
    ]
    assert [series.label.removeprefix("transformer") for series in dataset.all_series] == [
        "", " math", " window 256",
    ]  # fmt: skip
    assert losses == [[3.2], [3.2], [3.4]]


def test_a_model_is_what_its_rows_say_and_not_what_it_is_called(tmp_path: Path) -> None:
    said = {
        "mine": {"recurrent": True, "title": "Mine"},
        "rwkvish": {"recurrent": False, "title": "the Looker"},
    }
    rows = [make_row(who, "train", at, **said[who]) for who in said for at in (256, 512)]
    dataset = collect([write_run(tmp_path / "a", rows)])
    assert [(series.label, series.recurrent, series.title) for series in dataset.all_series] == [
        ("mine", True, "Mine"), ("rwkvish", False, "the Looker"),
    ]  # fmt: skip
    assert [(one.label, other.label) for one, other in dataset.pairs] == [("mine", "rwkvish")]


def test_old_rows_are_what_their_class_says(tmp_path: Path) -> None:
    old = json.loads(make_row("old", "train", 256, target="models.rwkv7.RWKV7").to_json())
    old["config"] |= {"wkv": "reference"}
    for name in ("recurrent", "title", "options"):
        del old[name]
    (tmp_path / "probes.jsonl").write_text(json.dumps(old) + "\n")
    (series,) = collect([tmp_path]).all_series
    assert (series.label, series.recurrent, series.title) == ("old reference", True, "RWKV-7")
    old["target"] = "models.gone.Gone"
    (tmp_path / "probes.jsonl").write_text(json.dumps(old) + "\n")
    with pytest.raises(
        UserError, match=r"old: its rows do not say .* there is no models.gone.Gone"
    ):
        collect([tmp_path])


def test_models_with_one_title_go_by_their_names(tmp_path: Path) -> None:
    rows = [make_row(who, "train", 256, title="Twin", recurrent=True) for who in ("a", "b")]
    assert [series.title for series in collect([write_run(tmp_path / "a", rows)]).all_series] == [
        "a",
        "b",
    ]


def test_an_old_training_is_what_the_class_in_its_configuration_says(tmp_path: Path) -> None:
    summary = make_summary("old", 3.0, config={"attention": "math"})
    for name in ("recurrent", "title", "options"):
        del summary[name]
    folder = write_run(tmp_path / "a", [make_row("gpt", "train", 256)], summary)
    (folder / "old-tiny" / "config.yaml").write_text("model: {target: models.gpt.GPT}")
    (training,) = collect([folder]).trainings
    assert (training["recurrent"], training["title"]) == (False, "GPT")
    assert training["options"] == {"attention": "math"}
