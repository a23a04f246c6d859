"""What is beyond any use is refused in one line, at once, and what is at the edge is not."""

from __future__ import annotations

import typing
from pathlib import Path

import pytest

from conf import schema
from scripts.cli import limits
from scripts.cli.arguments import keys
from scripts.cli.check import examine, problems_of, read
from scripts.cli.hydra_flags import parse
from scripts.cli.jobs import one_line
from scripts.cli.limits import excess
from training.run_folder.folder import LONGEST_NAME

BEYOND = [
    (["trainer.max_steps=9223372036854775808"], "an integer must fit into 64 bits"),
    ([f"seed={10**90}"], "an integer must fit into 64 bits"),
    (["seed=" + "9" * 5000], "is not of the form key=value"),
    (["data.batch_size=1000000000000"], "must be at most 1048576"),
    (["data.length=1000000000000000"], "must be at most 1073741824"),
    (["optim.lr=1e400"], "must be a finite number"),
    (["data.paths=" + "[" * 100 + "]" * 100], "100 brackets within one another"),
    (["model.sizes=" + "{a: " * 100 + "1" + "}" * 100], "100 brackets within one another"),
    (["seed=" + "int(" * 100 + "1" + ")" * 100], "100 brackets within one another"),
    (["name=${oc.decode:'[1'}"], "only another key's value can be put in"),
    (["name=${oc.env:HOME}"], "only another key's value can be put in"),
    (["name=${hydra:job.name}"], "only another key's value can be put in"),
    (["name=${group}", "group=${runs_dir}"], "group stands for other keys itself"),
    (["name=" + "${seed}" * 21], "21 values of other keys"),
    (["name=" + "x" * 300], "must be at most 255 characters long"),
    (["name=" + "x" * (LONGEST_NAME + 1)], f"a name may have {LONGEST_NAME} characters"),
    (["runs_dir=" + "x" * 300], "a path may have 4,095 bytes, and 255 between two slashes"),
    (["data.tokenizer=" + "x/" * 3000], "a path may have 4,095 bytes, and 255 between two slashes"),
    (["name=a\0b"], "a word must be UTF-8 without control characters"),
    (["data.paths=[a\udc80]"], "a word must be UTF-8 without control characters"),
    (["wandb.project=a\x1b[2Jb"], "a word must be UTF-8 without control characters"),
    (["seed=1"] * 10_000, "10,000 words: a command line may have 200"),
    (["x" * 30_000], "30,000 characters"),
    (["wandb.tags=[" + "a," * 2001 + "a]"], "2,001 values: a command line may have 2,000"),
    (["-m", "seed=range(0,1000000000)"], "1,000,000,000 runs, and one command starts at most"),
    (["-m", "seed=shuffle(range(0,1000000000))"], "1,000,000,000 runs, and one command starts"),
    (["-m", "seed=range(0,40)", "optim.warmup_steps=range(0,40)"], "1,600 runs, and one command"),
    (["-m", "seed=range(1,10,0)"], "a range needs finite ends, and a step other than 0"),
    (["model.n_layer=20000"], "model.n_layer=20000: must be at most 4096"),
    (["model.sizes.tiny.n_layer=20000", "model.size=tiny"], "model.n_layer=20000: must be at most"),
    (["model.n_embd=9223372036854775807"], "must be at most 16777216"),
    (["model=transformer", "model.rope_base=1e400"], "model.rope_base=inf: must be a finite"),
    (["model=ntm", "model.shift_range=-1"], "model.shift_range=-1: must be at least 0"),
]


@pytest.mark.parametrize(("words", "expected"), BEYOND)
def test_what_is_beyond_any_use_is_refused(words: list[str], expected: str) -> None:
    (problem,) = problems_of("train", words)
    assert expected in problem


def test_a_count_that_may_be_zero_says_so() -> None:
    assert problems_of("train", ["model=ntm", "model.shift_range=0"]) == []


@pytest.mark.parametrize("script", ["train", "probe", "plan"])
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["model.n_layer=20000"], "model.n_layer=20000: must be at most 4096"),
        (["model.n_layer=0"], "model.n_layer=0: must be at least 1"),
        (["model.n_layer=two"], "model.n_layer=two: expected an integer"),
        (["model=hybrid", "model.layers='rwkv7*20000'"], "model.n_layer=20000: must be at most"),
        (["model=transformer", "model.n_head=0"], "model.n_head=0: must be at least 1"),
        (["model=rwkv7", "model.lora_gate=-1"], "model.lora_gate=-1: must be at least 1"),
        (["model.n_embd=2000000000"], "model.n_embd=2000000000: must be at most 16777216"),
    ],
)
def test_a_size_beyond_any_use_is_refused_before_its_model_is_imported(
    script: str, words: list[str], expected: str
) -> None:
    """Examining imports no PyTorch (`test_lines`)."""
    schema.register(script)
    (problem,) = examine(script, read(script, words)).problems
    assert problem.startswith(expected)


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("train", ["name=lr${optim.lr}", "runs_dir=${oc.env:HOME}/runs"]),
        ("train", ["data.paths=['" + "(" * 19 + ")" * 19 + "']"]),
        ("train", ["name=" + "x" * 200]),
        ("train", ["runs_dir=" + "/".join(["x" * 255] * 15)]),
        ("probe", ["lengths=[" + ",".join(["64"] * 1000) + "]"]),
        ("generate", ["run=a", "prompt=" + "x" * 100_000]),
        ("generate", ["run=a", "prompt=a\tb\nc\x1b"]),
    ],
)
def test_what_is_merely_much_is_not(script: str, words: list[str]) -> None:
    schema.register(script)
    line = parse(words)
    assert excess(script, line.words) == []
    if script == "train" and "(" not in words[0]:
        assert examine(script, line).problems == []


def test_every_number_has_its_bounds() -> None:
    """And so no key can stand for more than a machine can count."""
    for script, node in schema.SCRIPTS.items():
        for name, kind, item in keys(node):
            hint = typing.get_type_hints(item_owner(node, name))[name.rpartition(".")[2]]
            if kind in (int, float) or hint == list[int]:
                bounds = item.metadata["low"], item.metadata["high"]
                assert None not in bounds, f"{script}: {name}"


def item_owner(node: type, name: str) -> type:
    """The dataclass that has the last part of a dotted key."""
    for part in name.split(".")[:-1]:
        hint = typing.get_type_hints(node)[part]
        node = typing.get_args(hint)[0] if typing.get_args(hint) else hint  # of `DataConf | None`
    return node


def test_a_message_is_one_line_of_bearable_length() -> None:
    assert one_line("a\nb\x1b\ud800") == "a\\nb\\x1b\\ud800"
    assert len(one_line("x" * 100_000)) < 2000


def test_patterns_are_not_looked_for_everywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a [1].txt").touch()
    monkeypatch.chdir(tmp_path)
    assert limits.excess("train", ["data.paths=[/**/[x]*{]"]) == []
    assert problems_of("train", ["data=text", "data.paths=[*[[]1*.txt]"]) == []
    (problem,) = problems_of("train", ["data=text", "data.paths=[/*/*/*/*/*/*/[x]*{]"])
    assert "is not of the form key=value" in problem
