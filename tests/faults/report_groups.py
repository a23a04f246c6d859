"""Groups of probe rows and trainings as sweeps and trainings write them, and hostile values."""

from __future__ import annotations

import json
import random
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

MARKUP = "</title></script><script>alert(1)</script><img src=x onerror=alert(1)>\"'><b id=x>"
NAMES = (
    MARKUP, "$\\frac{$", "a$b$c", "[/red][bold]", ":smile:", "x" * 200, "ü \N{CJK RADICAL SUN}",
    "{{js}}", "=1+1", "../../up", "%s%n{0}", "-", "__proto__", "\N{RIGHT-TO-LEFT OVERRIDE}abc",
)  # fmt: skip
HOSTILE: tuple[Any, ...] = (
    None, "", "3", "nan", "a\x1b[31mb\x07", "a\nb", "\ud800", "x" * 100_000, -1, 0, 1, 2**62, 2**64,
    10**30, -(10**30), 10**400, 0.5, 1e-300, 1e300, float("nan"), float("inf"), -float("inf"), True,
    False, [], [1], [-1.0], [None], [[1]], ["1", 2], [float("nan")] * 3, {}, {"a": 1}, {"": None},
    {"kind": 3}, {"a": {"b": {"c": [1]}}}, [0.1] * 10_000, *NAMES,
)  # fmt: skip
LENGTHS = (64, 128, 256)
PROBES = ("train", "decode")
PARAMETERS = 10_000_000


@dataclass(frozen=True)
class Kind:
    """What rows and summaries say of their model."""

    model: str
    target: str
    title: str
    recurrent: bool


KINDS = (
    Kind("rwkv4", "models.rwkv4.RWKV4", "RWKV-4", recurrent=True),
    Kind("gpt", "models.gpt.GPT", "GPT", recurrent=False),
)


def sound_row(kind: Kind, probe: str, length: int, **changes: Any) -> dict[str, Any]:
    """The fields of a row as a sweep writes them."""
    cost = 0.05 + 1e-4 * length if kind.recurrent else 0.01 + 1e-6 * length**2
    values: dict[str, Any] = {
        **asdict(kind), "probe": probe, "sweep": "batch_1", "size": "tiny",
        "config": {"vocab_size": 256, "n_layer": 2, "n_embd": 64}, "parameters": PARAMETERS,
        "context_length": length, "batch": 1, "status": "ok", "error": None,
        "seconds": [cost, 1.01 * cost, 1.02 * cost], "peak_bytes": 10**6 + length,
        "peak_method": "resident", "state_bytes": 1000 if kind.recurrent else 10 * length,
        "flops": 10**9, "flops_dense": 10**9, "backends": {"wkv": "cpu"}, "precision": "float32",
        "seed": 0, "device": {"kind": "cpu", "name": "X", "threads": 1, "memory_bytes": 2**34},
        "versions": {"torch": "2.13.0"}, "commit": "0123456789abcdef", "load_before": 0.1,
        "started": "2026-01-01T00:00:00+00:00", "command": "python scripts/probe.py",
        "token_seconds": [cost] * 6 if probe == "decode" else [], "disturbed": [False] * 3,
        "cpu_seconds": [cost] * 3, "peak_flops": 1e11, "options": {},
    }  # fmt: skip
    return values | changes


def sound_summary(kind: Kind, place: int = 0, **changes: Any) -> dict[str, Any]:
    """The summary of a training; those of several places differ in compute."""
    tokens = 10**6 * 2**place
    values: dict[str, Any] = {
        **asdict(kind), "name": f"{kind.model}-{place}", "size": "tiny",
        "config": {"vocab_size": 256}, "parameters": PARAMETERS, "steps": 10, "tokens": tokens,
        "forward_flops": 2 * PARAMETERS * tokens, "val_loss": 5.0 * 0.9**place,
        "val_bits_per_byte": 3.0 * 0.9**place, "unigram_entropy": 6.0, "gzip_bits_per_byte": 2.5,
        "xz_bits_per_byte": 2.4, "order_hash": f"{place}", "data_fingerprint": "b",
        "tokens_per_second": 1e4, "precision": "32-true", "packing": "stream", "segment": 0,
        "bptt": "exact", "backends": {"wkv": "cpu"}, "options": {},
    }  # fmt: skip
    return values | changes


@dataclass
class Group:
    """What a trial puts on disk: lines of rows and summaries, as bytes."""

    folder: Path
    draw: random.Random
    lines: list[bytes]
    summaries: list[bytes]
    kept: list[bytes]
    """Lines that are sound, and must be in the report."""
    words: list[str]
    """More of the command line."""
    goes_on: bool = True
    """Whether there must be a report, not only a message."""

    @property
    def rows(self) -> Path:
        return self.folder / "probes.jsonl"

    def write(self) -> None:
        self.folder.mkdir(parents=True)
        if self.lines:
            self.rows.write_bytes(b"\n".join(self.lines) + b"\n")
        for number, content in enumerate(self.summaries):
            run_folder = self.folder / f"run-{number}"
            run_folder.mkdir()
            (run_folder / "summary.json").write_bytes(content)


def encoded(values: Any) -> bytes:
    return json.dumps(values).encode()


def sound(folder: Path, draw: random.Random) -> Group:
    """Two models with rows and trainings, a scaling study in every second one."""
    probes = draw.choice((PROBES[:1], PROBES[:1], PROBES))  # more are drawn in more pictures
    rows = [
        encoded(sound_row(one, probe, length))
        for length in LENGTHS
        for probe in probes
        for one in KINDS
    ]
    places = range(draw.choice((1, 5)))
    summaries = [encoded(sound_summary(one, at)) for one in KINDS for at in places]
    return Group(folder, draw, rows, summaries, list(rows), ["allow_mixed=true"])


def shown(value: Any) -> str:
    return repr(value) if len(repr(value)) <= 40 else f"{repr(value)[:40]}..."


def spoil(group: Group, place: int, line: bytes) -> None:
    """Put a damaged line in the place of a sound one."""
    group.kept.remove(group.lines[place])
    group.lines[place] = line
