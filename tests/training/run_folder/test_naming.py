"""The default name tells apart everything that differs, in few letters."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml

from conf.schema import TrainConf, is_in
from tests.registered_models import FOLDER
from training.run_folder.folder import NAME
from training.run_folder.naming import LONGEST, PLACES, SHORT, default_name

RWKV7 = yaml.safe_load((FOLDER / "rwkv7.yaml").read_text())


def conf_of(model: dict[str, Any] | None = None, **keys: Any) -> TrainConf:
    """A configuration with some keys set, dots written as `__`."""
    conf = TrainConf(model=model if model and "sizes" in model else {**RWKV7, **(model or {})})
    conf.data.corpus = "stdlib"
    for key, value in keys.items():
        *path, leaf = key.split("__")
        node: Any = conf
        for part in path:
            node = getattr(node, part)
        setattr(node, leaf, value)
    return conf


def name_of(model: dict[str, Any] | None = None, **keys: Any) -> str:
    return default_name(conf_of(model, **keys), "rwkv7", "5m")


@pytest.mark.parametrize(
    ("keys", "name"),
    [
        ({}, "rwkv7-5m-s0"),
        ({"optim__lr": 3e-3, "data__batch_size": 8}, "rwkv7-5m-bs8-lr3e-3-s0"),
        ({"optim__lr": 0.1, "seed": 7}, "rwkv7-5m-lr0.1-s7"),
        ({"trainer__max_steps": 4}, "rwkv7-5m-n4-s0"),
        ({"trainer__precision": "bf16-mixed"}, "rwkv7-5m-bf16_mixed-s0"),
        ({"training__gradient_checkpointing": True}, "rwkv7-5m-gradient_checkpointing-s0"),
        ({"data__tokenizer": "bytes", "data__length": 64}, "rwkv7-5m-bytes-l64-s0"),
        ({"training__segment": 8, "training__bptt": "truncated"}, "rwkv7-5m-segment8-truncated-s0"),
        ({"model": {"window": 256, "attention": "math"}}, "rwkv7-5m-window256-attention_math-s0"),
        (
            {"data__corpus": "mqar", "data__task": {"pairs": 8, "noise": True}},
            "rwkv7-5m-mqar-pairs8-s0",
        ),
        ({"wandb__mode": "disabled", "runs_dir": "x", "data__workers": 2}, "rwkv7-5m-s0"),
    ],
)
def test_names(keys: dict[str, Any], name: str) -> None:
    actual = name_of(**keys)
    assert sorted(actual.split("-")) == sorted(name.split("-"))
    assert NAME.fullmatch(actual)


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_model_as_shipped_adds_nothing_to_its_name(path: Path) -> None:
    shipped = yaml.safe_load(path.read_text())
    conf = conf_of(shipped)
    assert default_name(conf, path.stem, "tiny") == f"{path.stem}-tiny-s0"


def test_every_key_of_a_shipped_model_changes_the_name() -> None:
    shipped = yaml.safe_load((FOLDER / "transformer.yaml").read_text())
    other = {**shipped["sizes"]["5m"], "n_layer": 5}
    changes: list[dict[str, Any]] = [
        {}, {"attention": "math"}, {"rope_base": None}, {"rope_base": 1e5}, {"window": 256},
        {"target": "models.gpt.GPT"}, {"sizes": {**shipped["sizes"], "5m": other}},
    ]  # fmt: skip
    names = [
        default_name(conf_of({**shipped, **change}), "transformer", "5m") for change in changes
    ]
    assert len(set(names)) == len(changes)
    assert all(NAME.fullmatch(name) for name in names)
    unused = {"sizes": {**shipped["sizes"], "3m": other}}
    assert default_name(conf_of({**shipped, **unused}), "transformer", "5m") == names[0]


def test_paths_and_lists_are_told_apart_by_a_digest() -> None:
    names = [
        name_of(data__corpus="text", data__paths=paths)
        for paths in (["a/book.txt"], ["b/book.txt"], ["a/book.txt", "b/book.txt"], ["é b=[1].txt"])
    ]
    assert len(set(names)) == 4
    assert all(NAME.fullmatch(name) for name in names)
    assert names[0].startswith("rwkv7-5m-text-book-")


def test_every_key_that_matters_changes_the_name() -> None:
    def leaves(node: Any, prefix: str = "") -> list[tuple[str, Any]]:
        """Every key and another value of it."""
        values: list[tuple[str, Any]] = []
        for item in fields(node):
            value = getattr(node, item.name)
            if is_dataclass(value):
                values += leaves(value, f"{prefix}{item.name}.")
            else:
                choices = [choice for choice in item.metadata.get("choices", ()) if choice != value]
                values.append((f"{prefix}{item.name}", choices[0] if choices else other(value)))
        return values

    def other(value: Any) -> Any:
        if isinstance(value, bool):
            return not value
        return (
            value * 2 + 3 if isinstance(value, int | float) else ["x"] if value == [] else "other"
        )

    changed = {
        key: name_of(**{key.replace(".", "__"): value})
        for key, value in leaves(conf_of())
        if key == "seed" or not is_in(key, PLACES)
    }
    assert len(set(changed.values())) == len(changed) > 25
    assert name_of() not in changed.values()


def test_close_values_have_names_of_their_own() -> None:
    rates = [1e-3, 1.0000001e-3, 1e-4, 0.01, 0.0123456789, 1e-05, 123456.0, 0.0]
    names = [name_of(optim__lr=rate, optim__final_lr=0.5) for rate in rates]
    assert len(set(names)) == len(rates)
    assert all(NAME.fullmatch(name) for name in names)


def test_a_long_name_is_cut_and_stays_unique() -> None:
    long = {"data__paths": ["x" * 300], "data__tokenizer": "y" * 200, "optim__l2wrap": 0.123456789}
    names = [name_of(**long, optim__lr=rate, data__length=99999, seed=3) for rate in (1e-3, 2e-3)]
    assert len(set(names)) == 2
    assert all(len(name) <= LONGEST and name.endswith("-s3") for name in names)


def test_a_long_name_has_whole_values() -> None:
    """One that was cut in the middle of `wu1000` said `wu10`."""
    names = []
    for steps in (123_456_700, 123_456_789):
        keys = {"data__paths": ["z" * 30], "data__corpus": "text", "optim__warmup_steps": steps,
                "optim__beta1": 0.123456789, "data__batch_size": 77_777, "data__length": 99_999,
                "trainer__max_steps": 987_654_321, "optim__lr_width": 555_555}  # fmt: skip
        names.append(name_of(**keys))
    for name, steps in zip(names, (123_456_700, 123_456_789), strict=True):
        *parts, digest, seed = name.split("-")
        assert len(name) <= LONGEST and len(digest) == 10 and seed == "s0"
        assert set(parts) < {
            "rwkv7", "5m", "text", "z" * 20, f"wu{steps}", "beta1_0.123456789", "bs77777",
            "l99999", "n987654321", "lr_width555555",
        }  # fmt: skip
        assert len(name) > LONGEST - 20
    assert names[0] != names[1]


def test_names_that_can_be_read_in_two_ways_have_digests() -> None:
    """Every pair of one key and value is another name, whatever the keys are called."""
    foreign: dict[str, Any] = {"name": "mine", "target": "models.mine.Mine", "size": "5m"}
    foreign |= {"sizes": {}, **dict.fromkeys(("rank", "rank1", "x", "no_x"))}
    cases: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
        ("5m", {"rank": 12}, {}), ("5m", {"rank1": 2}, {}), ("5m", {}, {"tune__rank": 12}),
        ("5m", {"x": False}, {}), ("5m", {"no_x": True}, {}), ("5m-lr0.5", {}, {}),
        ("5m", {}, {"optim__lr": 0.5}), ("5m/lr0.5", {}, {}),
    ]  # fmt: skip
    names = [
        default_name(conf_of({**foreign, **changes}, **keys), "mine", size)
        for size, changes, keys in cases
    ]
    names += [name_of(data__field=text) for text in ("x", "_x", "__x", "5", "_5")]
    assert len(set(names)) == len(names)
    assert all(NAME.fullmatch(name) for name in names)


def test_values_without_a_prefix_are_those_of_one_key() -> None:
    seen: dict[str, str] = {}
    plain = conf_of()
    for key in (key for key, prefix in SHORT.items() if not prefix):
        section, _, leaf = key.partition(".")
        node = getattr(plain, section)
        item = next(item for item in fields(node) if item.name == leaf)
        usual = getattr(node, leaf)
        for choice in (each for each in item.metadata.get("choices", ()) if each != usual):
            assert seen.setdefault(str(choice), key) == key, choice
    assert len(seen) > 10


def test_names_of_pairs_do_not_meet() -> None:
    settings: list[dict[str, Any]] = [
        {"data__length": 1}, {"data__length": 11}, {"optim__beta1": 0.1}, {"optim__beta2": 0.1},
        {"data__batch_size": 1}, {"trainer__max_steps": 1}, {"optim__warmup_steps": 1},
    ]  # fmt: skip
    names = [name_of(**setting) for setting in settings]
    names += [
        name_of(**{**first, **two})
        for first, two in combinations(settings, 2)
        if not {*first} & {*two}
    ]
    assert len(set(names)) == len(names)
