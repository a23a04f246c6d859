"""Bad command lines, generated from the schema: each must be refused before any work."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import MISSING, Field
from pathlib import Path
from typing import Any

from conf.schema import SCRIPTS
from scripts.cli import arguments

Line = tuple[str, ...]
"""A script's name, and the words after it."""

CONF = Path(__file__).resolve().parents[2] / "conf"

# What makes an otherwise empty command line complete.
NEEDED = {
    "report": ("runs=[none]",),
    "generate": ("run=none",),
    "convert": ("source=none", "target=none.pth", "format=official"),
}
WRONG: dict[Any, tuple[str, ...]] = {
    int: ("ten", "1.5", "1e3.", "[1]", "{a: 1}", "1_", "nan", "inf", "0x", "1,", "- 1", "true?"),
    float: ("fast", "nan", "inf", "-inf", "[0.1]", "{a: 0.1}", "1e", "0.1.2", "1,5?", "--1"),
    bool: ("maybe", "7", "[true]", "{a: true}", "truee", "0.5"),
    str: ("[a]", "{a: b}", "[", "{", "'open", "a b'c", "${nothing}", "${oc.create:", "a=b}"),
    dict: ("text", "[a]", "3", "{", "{a: 1", "}"),
    list: ("{a: b}", "[[1, 2]]", "[", "[{a: 1}]", "[1,", "]"),
    Any: ("text", "[a]", "3", "{", "{a: {b: 1}}", "{a: -1}", "{}"),  # names, with values or words
}
GRAMMAR = (
    "=", "==", "=x", "trainer", "trainer.max_steps", "trainer.max_steps==3", "a b=c",
    "name=a b=c=", "~model", "~trainer.max_steps", "+trainer.max_steps=3", "++new=1", "+new.key=1",
    "model=[", "[]", "name='", 'name="', "name=${", "name=${oc.env:NOTHING_OF_THIS_NAME}",
    "{a: 1}", "name=a,b", "seed=range(3)", "seed=choice(1,2)", "seed=glob(*)", "model=glob(*)",
    "seed=int(x", "...=1", "model._target_=os.system", "+_target_=os.system", "hydra.job.name=x",
    "hydra/launcher=../x", "hydra.run.dir=elsewhere", "+hydra.callbacks.a._target_=os.system",
    "hydra.mode=MULTIRUN", "--config-dir=.", "--config-name=probe", "--config-path=.",
    "--experimental-rerun=a.pickle", "--multirunn", "-mm", "--no-such-flag", "-x",
    "--shell-completion", "-p=a", "trainer..max=1", ".trainer=1", "trainer.=1", "model.sizes=3",
    "model.sizes.tiny=3", "model.name.x=1",
)  # fmt: skip
IMPOSSIBLE: tuple[Line, ...] = (
    ("train", "optim.lr=1e-4", "optim.final_lr=1e-3"),
    ("train", "data.batch_size=3", "trainer.devices=2"),
    ("train", "model=gpt", "data.length=4096"),
    ("train", "model=transformer", "model.n_head=7"),
    ("train", "model=transformer", "model.n_kv_head=3"),
    ("train", "model=transformer", "model.n_embd=-4"),
    ("train", "model=rwkv7", "model.n_embd=100"),
    ("train", "model=rwkv4", "model.n_layer=0"),
    ("train", "model=rwkv4", "model.n_layer=-1"),
    ("train", "model.n_embd=99999999999999999999"),
    ("train", "model.target=os.system"),
    ("train", "model.target=models.meta.json.loads"),
    ("train", "model.target=torch.nn.Linear"),
    ("train", "model.wkv=fastest"),
    ("train", "model=rwkv4", "model.window=3"),
    ("train", "data=text"),
    ("train", "data=stdlib", "data.paths=[a.txt]"),
    ("train", "data.tokenizer=nothing.json"),
    ("train", "data.corpus=wikipedia"),
    ("train", "resume=nothing.ckpt"),
    ("train", "name=../up"),
    ("train", "name=/abs"),
    ("train", "name="),
    ("train", "group=a/b"),
    ("train", "name=.hidden"),
    ("train", "trainer.accelerator=gpu", "trainer.precision=16-mixedd"),
    ("train", "-m", "model=rwkv4,gpt", "name=one"),
    ("train", "-m", "model=rwkv4,nothing"),
    ("train", "-m", "seed=1,x"),
    ("train", "-m", "data.length=64,4096", "model=gpt"),
    ("train", "experiment=nothing"),
    ("train", "experiment=demo", "optim.final_lr=1"),
    ("probe", "lengths=[]"),
    ("probe", "lengths=[64]", "fixed_tokens=32"),
    ("probe", "model=gpt", "lengths=[2048]"),
    ("probe", "data=text"),
    ("probe", "experiment=demo"),
    ("probe", "group=../a"),
    ("report",),
    ("report", "runs=[a]", "slope_from=9000"),
    ("generate",),
    ("generate", "run=x", "tokenizer=nothing.json"),
    ("convert",),
    ("convert", "source=a", "target=a.pth", "format=safetensors"),
    ("convert", "source=a", "target=a.pth", "format=ggml"),
)


def bad_lines(count: int, seed: int) -> list[Line]:
    """`count` different bad command lines: a few of every kind, the rest drawn at random."""
    draw = random.Random(seed)
    kinds = [list(dict.fromkeys(kind)) for kind in (_values(draw), _keys(draw), _shapes())]
    kinds.append(list(IMPOSSIBLE))
    for kind in kinds:
        draw.shuffle(kind)
    weave = [kind[i] for i in range(max(map(len, kinds))) for kind in kinds if i < len(kind)]
    lines = list(dict.fromkeys(weave))
    while len(lines) < count:  # two mistakes in one line
        first = draw.choice(lines[: len(weave)])
        second = draw.choice([line for line in weave if line[0] == first[0]])
        lines = list(dict.fromkeys([*lines, (*first, *second[1:])]))
    return lines[:count]


def keys(script: str) -> Iterator[tuple[str, type, Field[Any]]]:
    """Dotted name, kind and field of every key with a meaning, `verbatim` ones left out."""
    return (entry for entry in arguments.keys(SCRIPTS[script]) if not entry[2].metadata["verbatim"])


def _line(script: str, *words: str) -> Line:
    given = {word.partition("=")[0] for word in words}
    needed = [word for word in NEEDED.get(script, ()) if word.partition("=")[0] not in given]
    return (script, *needed, *words)


def _values(draw: random.Random) -> Iterator[Line]:
    """Values of the wrong type, outside the bounds, or none of the choices."""
    for script in SCRIPTS:
        for name, kind, item in keys(script):
            wrong = [*WRONG[kind]]
            low, high = item.metadata["low"], item.metadata["high"]
            whole = kind is int or (kind is list and isinstance(_example(item), int))
            form = "[{}]" if kind is list else "{}"
            if low is not None:
                wrong += [form.format(low - 1), form.format(low - 10**6)]
            if high is not None:
                wrong += [form.format(int(high) + 1 if whole else max(high + 0.5, 1.01 * high))]
            if item.metadata["choices"]:
                word = draw.choice([choice for choice in item.metadata["choices"] if choice])
                wrong += [form.format(word + "x"), form.format(word[1:] + word[0] + "q")]
            for value in draw.sample(wrong, min(len(wrong), 6)):
                yield _line(script, f"{name}={value}")


def _example(item: Field[Any]) -> Any:
    made = item.default if item.default_factory is MISSING else item.default_factory()
    return made[0] if isinstance(made, list) and made else None


def _keys(draw: random.Random) -> Iterator[Line]:
    """Misspelt keys, keys of other scripts, groups that do not exist or have no such choice."""
    known = {script: {name for name, _, _ in keys(script)} for script in SCRIPTS}
    for script in SCRIPTS:
        for name in sorted(known[script]):
            place = draw.randrange(len(name))
            yield _line(script, f"{name[:place]}q{name[place:]}=1")
            yield _line(script, f"{name}.more=1")
        for other in sorted(set().union(*known.values()) - known[script]):
            if not any(name.startswith(f"{other}.") for name in known[script]):
                yield _line(script, f"{other}=1")
    for group in sorted(path.name for path in CONF.iterdir() if any(path.glob("*.yaml"))):
        for value in ("nothing", "../train", "rwkv4.yaml", "schema", "null", "''", "{a: 1}", "[a]"):
            if (group, value) != ("experiment", "null"):
                yield _line("train", f"{group}={value}")
        yield _line("report", f"{group}=demo")


def _shapes() -> Iterator[Line]:
    """Words that are no `key=value` of ours."""
    for script in ("train", "probe", "report"):
        for word in GRAMMAR:
            yield _line(script, word)
