"""Running a script as its user does, in this process where that is enough: imports take long."""

from __future__ import annotations

import re
import runpy
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from conf.schema import script_path
from data.tokenizers import byte_tokenizer
from models.formats.save import save
from models.formats.weights import Weights
from tests.registered_models import shaken, spec_of

ROOT = Path(__file__).resolve().parents[2]

QUICK = ("relative_half_width=0", "remeasure=0")
"""For `probe.py`: no repeats beyond those asked for, and no point measured again."""
ONCE = ("processes=1", *QUICK)
"""The same, in one process."""


class Done(NamedTuple):
    status: int
    out: str
    err: str


def run_script(capfd: pytest.CaptureFixture[str], name: str, *words: str) -> Done:
    """`python scripts/NAME.py WORDS...` in this process, or of another folder."""
    before, status = sys.argv, 0
    sys.argv = [str(ROOT / script_path(name)), *words]
    capfd.readouterr()
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as exit:
        status = int(exit.code or 0)
    finally:
        sys.argv = before
    return Done(status, *capfd.readouterr())


def write_weights(folder: Path, *names: str) -> Path:
    """Files of random weights, `NAME.safetensors`, and a tokenizer of bytes, in `folder`."""
    byte_tokenizer().save(folder / "tokenizer.json")
    for name in names:
        weights = Weights(spec_of(name, vocab=257), shaken(name, vocab=257).state_dict())
        save(weights, folder / f"{name}.safetensors", "safetensors")
    return folder


def _listen() -> None:
    """Obey Ctrl-C, which what starts in the background of a shell ignores."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


class Serving(NamedTuple):
    """A `python scripts/serve.py` that listens."""

    url: str
    process: subprocess.Popen[str]


@contextmanager
def serving(*words: str) -> Iterator[Serving]:
    """`python scripts/serve.py WORDS... port=0`, in a group of its own; killed if it is left."""
    command = [sys.executable, str(ROOT / "scripts" / "serve.py"), *words, "port=0"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, process_group=0, preexec_fn=_listen
    )
    assert process.stdout is not None
    try:
        lines = []
        for line in process.stdout:
            lines.append(line)
            if found := re.search(r"open (http://\S+)/", line):
                break
        else:
            pytest.fail(f"it ended: {lines}")
        yield Serving(found[1], process)
    finally:
        process.kill()
        process.wait()


@contextmanager
def server(*words: str) -> Iterator[str]:
    """The address of `python scripts/serve.py WORDS... port=0`, which Ctrl-C must end in order."""
    with serving(*words) as started:
        yield started.url
        started.process.send_signal(signal.SIGINT)
        assert started.process.wait(120) == 130
