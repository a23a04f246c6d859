"""Everything that a GPU has to show, within one lease: `python -m benchmarks.gpu OUT`.

Correctness comes first and the crossover last. Each check is a process with a limit of its own, so
that a kernel that hangs or crashes costs one check, and its rows are on disk before the next one
begins. What cannot be measured is a row too, and says why. Needs PyTorch and cuda-core, and
nothing else but for the last check; `--device cpu` runs every check in a small form, without a GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.gpu_checks import CHECKS, LIMITS, PEERS
from benchmarks.harness import ROOT, Row, header, table

BUDGET = 840.0
"""Seconds of all checks: a lease of a quarter of an hour, less its start."""
LEAST = 10.0
"""Seconds below which no further check is begun."""


def main() -> None:
    """Run the checks one after the other, then write what they said as a table."""
    made = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    made.add_argument("out", type=Path, help="folder for results.jsonl, report.md and each output")
    made.add_argument("--budget", type=float, default=BUDGET, help="seconds of all checks")
    made.add_argument("--only", default="", help="checks to run, with commas between")
    made.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    for peer, what in PEERS.items():
        made.add_argument(f"--{peer}", type=Path, help=f"{what}, measured beside ours")
    arguments = made.parse_args()
    names = arguments.only.split(",") if arguments.only else [*CHECKS]
    if unknown := [name for name in names if name not in CHECKS]:
        made.error(f"no check {', '.join(unknown)}: choose from {', '.join(CHECKS)}")
    arguments.out.mkdir(parents=True, exist_ok=True)
    peers = {peer: str(getattr(arguments, peer.replace("-", "_")) or "") for peer in PEERS}
    rows: list[dict[str, Any]] = []
    for row in run(arguments.out, names, arguments.device, arguments.budget, peers):
        rows.append(row)
        print(f"{row['check']}: {row['what']}: {row['measured']}", flush=True)
    write(arguments.out, rows)


def run(
    out: Path, names: list[str], device: str, budget: float, peers: dict[str, str]
) -> Iterator[dict[str, Any]]:
    """The rows of the checks, each on disk in `out/results.jsonl` when it is yielded."""
    end = time.monotonic() + budget
    results = out / "results.jsonl"
    with results.open("a") as file:
        for name in names:
            left = end - time.monotonic()
            if left < LEAST:
                found = [_missing(name, "the time of the lease was used up")]
            else:
                found = _check(name, out / f"{name}.txt", device, min(LIMITS[name], left), peers)
            for row in found:
                file.write(json.dumps(row) + "\n")
            file.flush()
            os.fsync(file.fileno())
            yield from found


def _check(
    name: str, output: Path, device: str, limit: float, peers: dict[str, str]
) -> list[dict[str, Any]]:
    """The rows of one check, as far as it came; its whole output goes to a file."""
    command = [sys.executable, "-m", "benchmarks.gpu_checks", name, device, json.dumps(peers)]
    began, why = time.monotonic(), ""
    with output.open("w") as file:
        try:
            done = subprocess.run(
                command, stdout=file, stderr=subprocess.STDOUT, timeout=limit, cwd=ROOT
            )
            why = f"it ended with status {done.returncode}" if done.returncode else ""
        except subprocess.TimeoutExpired:
            why = f"it took more than {limit:.0f} s"
    lines = output.read_text(errors="replace").splitlines()
    rows = [{"check": name, **json.loads(line)} for line in lines if line.startswith('{"what"')]
    if why:
        said = next((line for line in reversed(lines) if line and line[0] not in "{ "), "")
        rows.append(_missing(name, ": ".join(filter(None, [why, said[:200]]))))
    seconds = round(time.monotonic() - began, 1)
    return [{**row, "seconds": seconds} for row in rows]


def _missing(name: str, why: str) -> dict[str, Any]:
    return {"check": name, "what": "the rest of it", "measured": f"not measured: {why}"}


def write(out: Path, rows: list[dict[str, Any]]) -> None:
    """`out/report.md`: the machine, and a table of all rows."""
    lines = ["# One lease of a GPU", "", *header(("cuda-core",)), ""]
    given = [Row(f"{row['check']}: {row['what']}", (row["measured"],)) for row in rows]
    lines += table(("check", "measured"), given)
    (out / "report.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
