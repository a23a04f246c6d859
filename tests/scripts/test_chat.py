"""scripts/chat.py with lines from a pipe."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from tests.scripts.commands import Done, run_script, write_weights

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_weights(tmp_path_factory.mktemp("weights"), "rwkv4", "gpt")


def chat(
    capfd: Capture, monkeypatch: pytest.MonkeyPatch, run: Path, lines: str, *words: str
) -> Done:
    monkeypatch.setattr("sys.stdin", io.StringIO(lines))
    given = [f"run={run}", f"tokenizer={run.parent}/tokenizer.json", "tokens=8", *words]
    return run_script(capfd, "chat", *given)


def test_every_line_is_answered(
    capfd: Capture, monkeypatch: pytest.MonkeyPatch, weights: Path
) -> None:
    run = weights / "rwkv4.safetensors"
    done = chat(capfd, monkeypatch, run, "Hello\n\nHello\n/new\nHello\n", "temperature=0")
    assert done.status == 0 and not done.err
    one = chat(capfd, monkeypatch, run, "Hello\n", "temperature=0")
    assert len(one.out.rstrip("\n")) > 0
    assert done.out.startswith(one.out) and done.out.endswith(one.out)
    assert chat(capfd, monkeypatch, run, "").out == ""


def test_mistakes_are_one_message(
    capfd: Capture, monkeypatch: pytest.MonkeyPatch, weights: Path
) -> None:
    done = chat(capfd, monkeypatch, weights / "rwkv4.safetensors", "a\n", "chat=tokenizer")
    assert done.status == 2 and "template" in done.err and "Traceback" not in done.err
    done = chat(capfd, monkeypatch, weights / "gpt.safetensors", f"{'x' * 3000}\nhi\n")
    assert done.status == 0 and "reads at most" in done.err and "/new begins again" in done.err
    assert len(done.out.split("\n")) > 2  # the next line has its answer
    assert "unknown key" in chat(capfd, monkeypatch, weights, "a\n", "beam=2").err
