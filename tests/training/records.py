"""Reading back what wandb recorded offline, with wandb's own tool."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Recorded:
    """One offline run: `wandb leet inspect --json` of its log."""

    folder: Path
    records: list[dict[str, Any]]

    def all(self, kind: str) -> list[dict[str, Any]]:
        return [record[kind] for record in self.records if record["type"] == kind]

    @property
    def run(self) -> dict[str, Any]:
        return self.all("run")[0]

    @property
    def config(self) -> dict[str, Any]:
        return self.run["config"]["update"]

    @property
    def axes(self) -> dict[str, str]:
        return {
            metric["glob_name"]: metric["step_metric"]
            for metric in self.all("metric")
            if "glob_name" in metric
        }

    @property
    def history(self) -> list[dict[str, Any]]:
        return [entry["item"] for entry in self.all("history")]

    @property
    def summary(self) -> dict[str, Any]:
        merged: dict[str, Any] = {}
        for entry in self.all("summary"):
            merged |= entry["update"]
        return merged

    @property
    def exit_code(self) -> int:
        return self.all("exit")[0].get("exit_code", 0)

    def artifacts(self, kind: str) -> list[dict[str, Any]]:
        return [artifact for artifact in self.all("artifact") if artifact["type"] == kind]

    def media(self, key: str) -> Path:
        """The file behind a logged table or page."""
        return self.folder / "files" / self.summary[f"{key}.path"]

    def table(self, key: str) -> tuple[list[str], list[list[Any]]]:
        content = json.loads(self.media(key).read_text())
        return content["columns"], content["data"]


def recorded(records: Path) -> dict[str, Recorded]:
    """Every run below `records`/wandb by its name; of one that was continued, the last part."""
    by_name = {}
    for path in sorted(records.glob("wandb/offline-run-*/run-*.wandb")):
        tool = str(Path(sys.executable).with_name("wandb"))
        command = [tool, "leet", "inspect", "--json", str(path)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        record = Recorded(path.parent, lines)
        if lines:  # of a process that was killed there may be nothing
            by_name[record.run["display_name"]] = record
    return by_name
