"""`from=` on a command line: the model and its sizes come from the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from conf.schema import register
from models.formats.crossover import write
from models.formats.weights import Weights
from models.registry import build
from scripts.cli.check import examine, problems_of, read
from scripts.cli.source_model import with_source_model
from tests.registered_models import spec_of

OPTIONS: dict[str, Any] = {
    "window": 8, "rope_base": 5e5, "rope_factor": 8.0, "head_size": 16, "qkv_bias": True,
}  # fmt: skip


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Weights of several models, by a name for each."""
    folder = tmp_path_factory.mktemp("weights")
    specs = {
        "rwkv7": spec_of("rwkv7"),
        "transformer": spec_of("transformer", **OPTIONS),
    }
    paths = {}
    for name, spec in specs.items():
        model: Any = build(spec)
        paths[name] = str(folder / f"{name}.safetensors")
        write(Weights(spec, model.state_dict()), Path(paths[name]))
    return paths


def model_of(*words: str) -> dict[str, Any]:
    """The composed model group of a line that has no problem."""
    register("train")
    line = read("train", [*words])
    assert not line.problems
    examined = examine("train", line)
    assert not examined.problems
    (config,) = examined.configs
    group = config.model
    preset = group.sizes[group.size]
    names = [name for name in group if name not in ("name", "target", "size", "sizes")]
    by_hand = {name: group[name] for name in names if group[name] is not None}
    return {"name": group.name, **preset, **by_hand}


@pytest.mark.parametrize("name", ["rwkv7", "transformer"])
def test_the_composed_model_is_that_of_the_file(files: dict[str, str], name: str) -> None:
    spec: Any = spec_of(name, **(OPTIONS if name == "transformer" else {}))
    composed = model_of(f"from={files[name]}")
    assert composed.pop("name") == name
    for field, value in spec.config.items():
        if field != "vocab_size":
            assert composed[field] == value, field


def test_options_may_differ_and_sizes_may_not(files: dict[str, str]) -> None:
    assert model_of(f"from={files['transformer']}", "model.window=16")["window"] == 16
    width = spec_of("rwkv7").config["n_embd"]
    assert model_of(f"from={files['rwkv7']}", f"model.n_embd={width}")["n_embd"] == width
    (problem,) = problems_of("train", [f"from={files['rwkv7']}", "model.n_embd=640"])
    assert problem == f"model.n_embd=640: from={files['rwkv7']} has n_embd={width}"
    (problem,) = problems_of("train", [f"from={files['rwkv7']}", "model=transformer"])
    assert problem == f"model=transformer: from={files['rwkv7']} is model=rwkv7"
    (problem,) = problems_of("train", [f"from={files['rwkv7']}", "model.size=125m"])
    assert "the sizes come from" in problem


def test_several_sources_must_be_of_one_model(files: dict[str, str]) -> None:
    both = f"init_from={files['rwkv7']},{files['transformer']}"
    _, (problem,) = with_source_model([both])
    assert "different models" in problem
    words, problems = with_source_model([f"init_from={files['rwkv7']},{files['rwkv7']}"])
    assert not problems and "model=rwkv7" in words
    words, problems = with_source_model([f"init_from=null,{files['rwkv7']}"])
    assert not problems and "model=rwkv7" in words


def test_the_model_of_a_file_of_ours_is_known_without_its_tensors(
    files: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = model_of(f"from={files['rwkv7']}")

    def read(*args: Any) -> None:
        raise AssertionError("read whole")

    monkeypatch.setattr("models.formats.load.read", read)
    assert model_of(f"from={files['rwkv7']}") == expected


def test_no_such_source(tmp_path: Path) -> None:
    (problem,) = problems_of("train", ["from=nowhere", f"runs_dir={tmp_path}"])
    assert problem.startswith("from='nowhere': no such run")
    assert with_source_model(["init_from=null", "name=a"]) == (["init_from=null", "name=a"], [])


def test_a_run_that_has_begun_says_what_it_is_where_its_source_has_gone(tmp_path: Path) -> None:
    folder = tmp_path / "g/branch"
    folder.mkdir(parents=True)
    model = {"target": "models.rwkv7.RWKV7", "size": "nano", "config": {"n_layer": 4}}
    (folder / "config.yaml").write_text(yaml.safe_dump({"model": model}))
    words = ["init_from=gone", f"runs_dir={tmp_path}", "group=g", "name=branch"]
    merged, problems = with_source_model(words)
    assert not problems
    assert merged == [*words, "model=rwkv7", "model.size=nano"]
    (folder / "config.yaml").write_text("model: 3")
    assert with_source_model(words)[1]


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("take=weights", "give from= too"),
        ("resize_vocab=true", "give from= too"),
        ("training.prune=median", "give group= too"),
    ],
)
def test_a_word_that_would_change_nothing_is_refused(word: str, message: str) -> None:
    (problem,) = problems_of("train", [word])
    assert message in problem
