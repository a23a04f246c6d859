"""What reports say of how the compared models were searched, and the searches that ship."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from conf.schema import FOLDER
from core.parsing import read_object
from probes.analysis.analysis import analyse
from probes.analysis.dataset import collect
from probes.analysis.search_record import search_record
from probes.analysis.training_grid import grid
from probes.report.trainings_text import pair_verdict
from probes.report.write import compose
from tests.probes.synthetic import make_rows
from tests.probes.trainings import training, write_training

MODELS = ("rwkv4", "transformer")


def train(folder: Path, rates: tuple[float, float], **changes: Any) -> Path:
    """Trainings of the demo, with these rates."""
    for model, rate in zip(MODELS, rates, strict=True):
        write_training(
            folder, model, 4.8, optim__lr=rate, searched="demo", summary={"size": "5m"}, **changes
        )
    return folder


def quality(folder: Path) -> str:
    """The sentences of the probes' page about losses."""
    for row in make_rows(MODELS, ("train",), fixed=False):
        with (folder / "probes.jsonl").open("a") as file:
            file.write(row.to_json().replace('"size": "tiny"', '"size": "5m"') + "\n")
    report = compose(analyse(collect([folder]), (1024, 8192)), folder)
    assert report.contents is not None
    return " ".join(text for _, texts in report.contents.story for text in texts)


def test_a_recorded_search_is_named(tmp_path: Path) -> None:
    text = quality(train(tmp_path / "demo", (2.8e-3, 7e-4), trainer__max_steps=160))
    assert "both predict new text equally well" in text
    assert (
        "The same search chose optim.lr for both, 0.0028 for RWKV-4 and 0.0007 for the "
        "Transformer: 5 settings of optim.lr (0.00035, 0.0007, 0.0014, 0.0028, 0.0056), seed 0, "
        "with 160 steps." in text
    )
    assert "another number of steps" not in text


def test_a_page_of_trainings_names_it_too(tmp_path: Path) -> None:
    folder = train(tmp_path / "demo", (2.8e-3, 7e-4))
    found = grid(collect([folder]).runs)
    (pair,) = found.pairs
    assert pair.obstacles == ()
    text = pair_verdict(pair, "nats per token")
    assert "The same search chose the settings of both, 5 settings of optim.lr" in text


def test_other_rates_than_the_search_found_are_no_comparison(tmp_path: Path) -> None:
    text = quality(train(tmp_path / "demo", (1e-3, 7e-4)))
    assert "RWKV-4 and the Transformer are not compared in how well they predict" in text
    assert (
        "They were not searched alike (RWKV-4: 1 training of one setting (optim.lr 0.001), seed 0; "
        in text
    )


def test_one_rate_for_both_is_no_search(tmp_path: Path) -> None:
    text = quality(train(tmp_path / "demo", (1e-3, 1e-3)))
    assert "Neither was searched: both were trained with the same settings." in text


@pytest.mark.parametrize("equal", [True, False])
def test_a_scaling_study_says_who_was_searched(tmp_path: Path, equal: bool) -> None:
    for model in MODELS:
        for steps in (100, 200, 400):
            rate = 1e-3 if equal or model == "rwkv4" else 2e-3
            facts = training(model, 1e6, 1024.0 * steps, 5 - steps / 200)
            kept = {key: facts[key] for key in ("tokens", "forward_flops", "order_hash")}
            write_training(
                tmp_path / "study", model, 5 - steps / 200, optim__lr=rate,
                trainer__max_steps=steps, summary=kept,
            )  # fmt: skip
    report = compose(analyse(collect([tmp_path / "study"]), (1024, 8192)), tmp_path)
    page = report.summary["scaling"]["page"]
    if equal:
        said = "No model was searched: all were trained with the same settings."
        assert page["paragraphs"][-1] == said
    else:
        assert page["headline"].startswith("The models were not searched alike (rwkv4: ")
        assert page["headline"].endswith("so they are not compared.")


# ---- the records that ship -----------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted((FOLDER / "searches").glob("*.json")), ids=lambda p: p.stem)
def test_records_are_whole(path: Path) -> None:
    record = search_record(path.stem)
    assert record is not None and read_object(path)["key"] == record.key
    assert len(record.losses) >= 2 and list(record.values) == sorted(record.values)
    for model, losses in record.losses.items():
        assert len(losses) == len(record.values)
        best = record.best(model)
        assert best not in (record.values[0], record.values[-1]), "a better one may lie beyond"


def test_demo_and_scaling_study_train_with_what_their_searches_found() -> None:
    record = search_record("demo")
    assert record is not None
    for model in MODELS:
        words = yaml.safe_load((FOLDER / "experiment" / f"demo_{model}.yaml").read_text())
        assert words["optim"]["lr"] == record.best(model)
    shared = yaml.safe_load((FOLDER / "experiment" / "demo.yaml").read_text())
    assert (shared["searched"], shared["trainer"]["max_steps"]) == ("demo", record.steps)
    study = search_record("scaling_law")
    assert study is not None
    together = [sum(losses) for losses in zip(*study.losses.values(), strict=True)]
    words = yaml.safe_load((FOLDER / "experiment" / "scaling_law.yaml").read_text())
    assert words["optim"]["lr"] == study.values[together.index(min(together))]
    assert search_record("nothing") is None and search_record("../secret") is None
