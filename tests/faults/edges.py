"""Command lines with values at and beyond the edges of their types, for every script and key.

Some are good: what stands at an edge, and not beyond it. Those may begin; all others must be
refused in lines that say so, at once, and without having touched anything.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import Field
from pathlib import Path
from typing import Any

from conf.schema import SCRIPTS
from scripts.cli.collisions import TOGETHER
from scripts.cli.console import REFUSED
from scripts.cli.jobs import run
from tests.faults.child import Child
from tests.faults.command_lines import CONF, NEEDED, Line, keys
from tests.faults.trial import Trial, captured, limit_memory

AT_ONCE = 50  # lines that one child tries
COMPUTING, WAITING = 10.0, 60.0  # seconds of a processor and of the clock that one line may take
SWEEPING = 4  # times as many, where it asks for hundreds of jobs
DEEP = 100

INTEGERS = (
    2**31 - 1, 2**31, 2**32, 2**53 + 1, 2**63 - 1, 2**63, -(2**63), -(2**63) - 1, 10**90, -(10**90),
    "-0", "+0", "00", "1e18", "1e400", "9" * 5000, "0x7fffffffffffffff", "1_0", "-1_0", "1.0",
    "٣", "１２", "²", "true", "null", "NaN", "-.inf", "1/2", "1e-400",
)  # fmt: skip
NUMBERS = (
    "1e308", "1.7976931348623157e308", "1e309", "1e400", "-1e400", "5e-324", "1e-400", "-0.0", "-0",
    ".5", "5.", "1e+3", "1E3", "+1", "nan", "inf", "-inf", 10**90, -(10**90), 2**63, "9" * 5000,
    "0." + "0" * 5000 + "1", "1e99999999999", "true", "null", "٣.٣", "1_0.5",
)  # fmt: skip
SWITCHES = ("0", "1", "2", "-0", "yes", "on", "TRUE", "null", 2**63, "1e400", "0.0", "''", "[]")
TEXTS = (
    "x" * 255, "x" * 256, "x" * 5000, "é" * 200, "x/" * 3000, "/" * 5000, "a\0b", "a\nb", "a\rb",
    "a\x1b[31mb", "a\x7fb", "a\udc80b", "\ud800", "\u202e", "\ufeff", "​", "~", "~nobody", "..",
    "../..", "/", ".", "-", "null", "''", "' '", "%s", "{}", "[]", "\\", "\\'", "$", "$$", "${",
    "${}", "${seed}", "${nothing}", "${name}", "${.name}", "${..a}", "${model}", "${a[0]}",
    "${oc.env:HOME}", "${oc.env:NOTHING_OF_THIS_NAME}", "${oc.decode:'['}", "${oc.create:'[1'}",
    "${oc.select:x}", "${oc.dict.keys:data}", "${oc.dict.values:data}", "${oc.deprecated:seed}",
    "${hydra:job.name}", "${python:1}", "${${seed}}", "${oc.env:${seed}}", "${seed}" * 40,
    "/dev/zero", "/proc/self/mem", "*" * 50, "**/" * 50, "/**/[x]", "a{b,c}", "NUL", "1e3", "0x1f",
)  # fmt: skip
LISTS = (
    "[]", "[null]", "[[]]", "[{}]", "[true]", "[1e400]", f"[{10**90}]", f"[{2**63}]", "[nan]",
    "[,]", "[" * DEEP + "]" * DEEP, "[" * 5000, "]" * 5000, f"[{','.join('1' * 3000)}]",
    f"[{','.join(['a'] * 1000)}]", "['']", "['\0']", "[a\udc80]", "[${seed}]", "${lengths}", "null",
    "[-0]", "[1,-1]", "extend_list(a)", "{}", "[x,x,x]",
)  # fmt: skip
MAPS = (
    "{}", "{a: {}}", "{a: []}", "{1: 2}", "{null: 1}", "{a: " * DEEP + "1" + "}" * DEEP, "{" * 5000,
    "{a: 1, a: 2}", "{'': 1}", "{a: ${seed}}", "${model}", "${machine}", "null", "{a.b: 1}",
    "{" + ",".join(f"k{number}: 1" for number in range(3000)) + "}",
)  # fmt: skip
SWEEPS = (
    "range(1,1000000000)", f"range(0,{10**90})", f"range({2**62},{2**63})", "range(1,10,0)",
    "range(1,10,1e-300)", "range(1,inf)", "range(nan,1)", "range(10,1)", "range(0,1,0.0001)",
    "range(1,999)", "shuffle(range(1,1000000000))", "sort(range(1,1000000000))", "range(5)",
    "int(range(1,1000000000))", "str(range(1,1000000000))", "tag(a,range(1,1000000000))",
    "choice(range(1,1000000000))", "choice()", "choice(1,1,1)", "1,2", "1," * 1500 + "2", ",", "1,",
    "interval(0,1)", "glob(**)", "glob([a,b])", "sort(1,x)", "shuffle()",
    "int(" * 99 + "1" + ")" * 99,
    "json_str([1])", "float(1e400)", "bool(2)",
)  # fmt: skip
VALUES: dict[Any, tuple[Any, ...]] = {
    int: INTEGERS, float: NUMBERS, bool: SWITCHES, str: TEXTS, list: LISTS, dict: MAPS, Any: MAPS
}  # fmt: skip
ODD: tuple[Line, ...] = (
    ("train", *("seed=1",) * 10_000),
    ("train", *(f"word{number}" for number in range(10_000))),
    ("probe", *("-m",) * 10_000),
    ("report", *("--nothing",) * 10_000),
    ("train", "seed=1", "seed=2"),
    ("train", "x" * 100_000),
    ("train", "x" * 100_000 + "=1"),
    ("train", "seed." * 5000 + "x=1"),
    ("plan", "=" * 10_000),
    ("train", ""),
    ("train", "\0"),
    ("train", "\udc80=1"),
    ("train", "model.n_layer=4096", "model.n_embd=16384"),
    ("train", "model=transformer", "model.size=7b"),
    ("train", "model=rwkv7", "model.size=14b", "trainer.strategy=fsdp"),
    ("train", "data.batch_size=1048576", "data.length=1048576"),
    ("train", "trainer.devices=1024", "data.batch_size=1024"),
    ("probe", "model=transformer", "model.size=14b"),
    ("probe", "model.n_layer=4096", "model.n_embd=16384"),
    ("train", "model.sizes={x: {n_layer: 1000000000}}", "model.size=x"),
    ("train", "model.sizes.tiny.n_layer=1000000000", "model.size=tiny"),
    ("train", "model.sizes.tiny={n_layer: 1e400}", "model.size=tiny"),
    ("train", "-m", "seed=range(1,1000)", "optim.lr=range(1,1000)"),
    ("train", "-m", "seed=range(0,999)", "data.length=range(1,3000)", "model=gpt"),
    ("train", "-m", "model=" + "gpt," * 900 + "rwkv4"),
    ("train", "name=${runs_dir}", "runs_dir=${name}"),
    ("train", "name=${group}${group}", "group=${resume}${resume}", "resume=${runs_dir}"),
    ("train", "--cfg=job", "seed=" + "1" * 5000),
    ("train", "--info", "seed=" + "1" * 5000),
    ("train", "--info", "-m", "seed=range(1,1000000000)"),
    ("train", "--hydra-help", "name=" + "[" * 5000),
    ("train", "hydra.launcher.timeout_min=" + "9" * 5000),
    ("train", "hydra.sweeper.max_batch_size=" + "[" * 5000),
    ("train", "hydra.verbose=" + "1" * 5000),
)


def trials(count: int, seed: int, folder: Path) -> Iterator[Trial]:
    """`count` lines, in children that try some each, in an empty folder."""
    lines = edge_lines(count, seed)
    for first in range(0, count, AT_ONCE):
        part = lines[first : first + AT_ONCE]
        results = folder / f"edges-{first:04d}.jsonl"
        child = Child(results.with_suffix(".console"), try_lines, part, results)
        ended = child.wait(AT_ONCE * WAITING)
        problems = [json.loads(text) for text in results.read_text().splitlines()]
        for line, problem in zip(part, problems, strict=False):
            yield described(line), problem
        if len(problems) < len(part):
            yield described(part[len(problems)]), f"ended the process ({ended.status})"


def described(line: Line) -> str:
    text = ascii(" ".join(line))[1:-1]
    return text if len(text) <= 120 else f"{text[:80]}... ({len(text):,} characters)"


def edge_lines(count: int, seed: int) -> list[Line]:
    """`count` different lines: of each script and key in turn, then of two keys at once."""
    draw = random.Random(seed)
    by_key = [_values(draw, script, *key) for script in SCRIPTS for key in _keys_of(script)]
    draw.shuffle(by_key)
    by_key.append(list(ODD))
    longest = max(map(len, by_key))
    weave = [kind[turn] for turn in range(longest) for kind in by_key if turn < len(kind)]
    lines = list(dict.fromkeys(weave))
    while len(lines) < count:
        first, second = draw.sample(weave, 2)
        if first[0] == second[0]:
            lines = list(dict.fromkeys([*lines, (*first, *second[1:])]))
    return lines[:count]


def _keys_of(script: str) -> Iterator[tuple[str, type, Field[Any] | None]]:
    """Those of the schema, the model's own, and the groups."""
    yield from keys(script)
    text = (CONF / f"{script}.yaml").read_text()
    if "- model:" in text:
        for name in ("n_layer", "n_embd", "window", "n_positions"):
            model = {"window": "transformer", "n_positions": "gpt"}.get(name, "rwkv7")
            yield f"model={model} model.{name}", int, None
        yield "model=transformer model.rope_base", float, None
        for name in ("size", "target", "name", "attention"):
            yield f"model=transformer model.{name}", str, None
        yield "model.sizes", dict, None
        yield "model", str, None


def _values(
    draw: random.Random, script: str, name: str, kind: type, item: Field[Any] | None
) -> list[Line]:
    """Lines that give one key the edges of its type, and those that its field declares."""
    *before, name = name.split(" ")
    values = [*map(str, VALUES[kind])]
    bounds = (item.metadata["low"], item.metadata["high"]) if item else ()
    form = "[{}]" if kind is list else "{}"
    for bound in (one for one in bounds if one is not None):
        around = (bound - 1, bound, bound + 1) if kind is not float else (bound, bound * 1.0001)
        values += [form.format(one) for one in around]
    draw.shuffle(values)
    given = {word.partition("=")[0] for word in (*before, f"{name}=")}
    needed = [word for word in NEEDED.get(script, ()) if word.partition("=")[0] not in given]
    lines = [(script, *needed, *before, f"{name}={value}") for value in values]
    sweeps = [(script, *needed, "-m", *before, f"{name}={one}") for one in draw.sample(SWEEPS, 4)]
    return [line for pair in zip(lines, sweeps, strict=False) for line in pair] + lines[4:]


def try_lines(lines: Sequence[Line], results: Path) -> None:
    """Run each line as its script would, in an empty folder; one JSON line with what is wrong."""
    limit_memory()
    place = results.with_suffix(".folder")
    place.mkdir(parents=True)
    os.chdir(place)
    with results.open("w", buffering=1) as file:
        for line in lines:
            file.write(json.dumps(problem_of(line, place)) + "\n")


def problem_of(line: Line, place: Path) -> str | None:
    """What is wrong with the answer to a line, whose work is left out; or None."""
    script, *words = line
    before = {*place.rglob("*")}
    share = SWEEPING if any("range(" in word for word in words) else 1
    status, text = captured(
        time_limit(share),
        lambda: run(script, "tests.faults.edges:begin", script in TOGETHER, words),
    )
    if "Traceback" in text:
        return f"a traceback: {text.strip().splitlines()[-1][:300]}"
    told = text.splitlines()
    if status == REFUSED and not (told and all(one.startswith("error: ") for one in told)):
        return f"refused without plain words: {text[-300:]!r}"
    if status not in (0, REFUSED):
        return f"status {status}, printed {text[-300:]!r}"
    left = sorted(str(path) for path in {*place.rglob("*")} - before)
    if status == REFUSED and (BEGUN in text or left):
        return f"began work and was refused, leaving {left}"
    return None


BEGUN = "the work begins"


def begin(conf: Any) -> None:
    """In place of a script's work, and of the further jobs of a multirun."""
    print(BEGUN)
    sys.exit(0)


@contextlib.contextmanager
def time_limit(share: int = 1) -> Iterator[None]:
    """Raise `TimeoutError` after `COMPUTING` seconds of work, or `WAITING` of doing nothing.

    After `share` times as many.
    """

    def stop(*_: object) -> None:
        raise TimeoutError("hangs")

    timers = {
        signal.SIGPROF: (signal.ITIMER_PROF, share * COMPUTING),
        signal.SIGALRM: (signal.ITIMER_REAL, share * WAITING),
    }
    before = {number: signal.signal(number, stop) for number in timers}
    for timer, seconds in timers.values():
        signal.setitimer(timer, seconds)
    try:
        yield
    finally:
        for number, (timer, _) in timers.items():
            signal.setitimer(timer, 0)
            signal.signal(number, before[number])
