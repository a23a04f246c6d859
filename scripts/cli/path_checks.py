"""Reports missing and unusable places of a valid line before PyTorch is imported.

It only looks, with the messages of the code that uses them later; what takes long is left to that.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from conf.schema import (
    ConvertConf,
    PlanConf,
    ProbeConf,
    ReportConf,
    TrainConf,
    WeightsConf,
)
from core.errors import UserError
from core.writable import check_writable
from data.corpora import early_problems
from data.parts import part_confs, validation_confs
from scripts.cli.collisions import folder_of
from training.run_folder.folder import find_place


def place_problems(confs: Iterable[Any]) -> list[str]:
    """Problems of the places in the typed configurations of jobs; empty if none is seen."""
    problems: list[str] = []
    for conf in confs:
        try:
            if isinstance(conf, TrainConf):
                folder = Path(folder_of(conf))
                if not (folder / "summary.json").exists():  # a finished run has nothing to write
                    check_writable(folder, hint="choose another runs_dir")
                    own = [] if conf.data.mix else [conf.data]
                    named = part_confs(conf.data) | validation_confs(conf.data)
                    for one in (*own, *named.values()):
                        if one.corpus == "text":
                            problems += early_problems(one)
            elif isinstance(conf, ProbeConf):
                check_writable(Path(conf.runs_dir, conf.group), hint="choose another runs_dir")
            elif isinstance(conf, WeightsConf):
                find_place("run", conf.run, conf.runs_dir)
            elif isinstance(conf, ConvertConf):
                find_place("source", conf.source, conf.runs_dir)
            elif isinstance(conf, ReportConf | PlanConf):
                problems += [
                    f"{run}: no such folder; runs= takes run or group folders"
                    for run in conf.runs
                    if not group_place(run).is_dir()
                ]
        except UserError as error:
            problems.append(str(error))
    return list(dict.fromkeys(problems))


def group_place(word: str) -> Path:
    """What `runs=` of a report or a plan names: the folder of that path, or else below `runs/`."""
    path, named = Path(word), Path(TrainConf().runs_dir, word)
    return named if not path.exists() and named.is_dir() else path
