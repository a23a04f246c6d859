"""Threads wait briefly, then asleep, in every process that is started here."""

from __future__ import annotations

from core.openmp import BRIEFLY, wait_briefly

import os
import subprocess
import sys
from pathlib import Path

import pytest

from probes.measure import isolated
from tests.probes import works

ROOT = Path(__file__).parents[2]
ENTRIES = sorted(path.stem for path in (ROOT / "scripts").glob("*.py") if path.stem != "__init__")
ASK = """
import builtins, os, runpy, sys
import hydra
load = builtins.__import__
def watch(name, *rest, **named):
    if name.partition(".")[0] in ("torch", "lightning"):
        print(*(os.environ.get(name) for name in sys.argv[1].split(",")), flush=True)
        os._exit(0)
    return load(name, *rest, **named)
builtins.__import__ = watch
for module in sys.argv[2:]:
    if not (child := os.fork()):
        runpy.run_module(module, run_name="imported")
        print("torch was not asked for", flush=True)
        os._exit(0)
    os.waitpid(child, 0)
"""


def at_the_import_of_torch(*modules: str, **variables: str) -> list[str]:
    """What is set when each first asks for torch, where no test of ours has set it before."""
    bare = {name: value for name, value in os.environ.items() if name not in BRIEFLY}
    command = [sys.executable, "-c", ASK, ",".join(BRIEFLY), *modules]
    done = subprocess.run(command, env=bare | variables, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr, done.stderr
    return done.stdout.splitlines()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="asks in forked processes")
def test_threads_wait_briefly_whatever_is_started() -> None:
    entries = [f"scripts.{name}" for name in ENTRIES] + [
        "models.layers.trunk",
        "probes.measure.isolated",
        "serving.worker",
    ]
    settings = dict(zip(entries, at_the_import_of_torch(*entries), strict=True))
    for name in ("scripts.runs", "scripts.prepare", "scripts.serve"):
        assert settings.pop(name) == "torch was not asked for"
    assert {
        name for name, words in settings.items() if words != " ".join(BRIEFLY.values())
    } == set()


def test_what_the_user_asked_for_stays() -> None:
    assert at_the_import_of_torch("models.layers.trunk", OMP_WAIT_POLICY="ACTIVE") == [
        "ACTIVE None None"
    ]
    for name in BRIEFLY:
        asked = {name: "7"}
        wait_briefly(asked)
        assert asked == {name: "7"}


def test_children_inherit_it() -> None:
    facts = isolated.run(works.environment, (), 60).facts
    assert {name: facts.get(name) for name in BRIEFLY} == {
        name: os.environ.get(name) for name in BRIEFLY
    }
