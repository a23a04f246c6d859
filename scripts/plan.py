"""Predict a training that no machine here can run.

`python scripts/plan.py model=rwkv7 model.size=7b data.length=131072 devices=64`
"""

from __future__ import annotations

from scripts.cli.launch import launch
from scripts.cli.path_checks import group_place

if __name__ == "__main__":  # before the imports that take long: a wrong word is answered at once
    launch("plan", "scripts.plan:main")

import json
from pathlib import Path

from rich.console import Console

from conf.schema import PlanConf
from core.files import filling
from core.writable import check_writable, writing
from probes.plan import page, tables
from probes.plan.plan import Planner, check_fits
from scripts.cli.model_spec import model_spec


def main(conf: PlanConf) -> None:
    """Print the plan; with `out`, write it too, and with `lengths` the curve."""
    folder = Path(conf.out or ".")
    if conf.out:
        check_writable(folder, "out")
    planner = Planner(model_spec(conf.model, conf.data.vocab_size), conf)
    plan = planner.plan(conf.data.length)
    console = Console(markup=False, emoji=False)
    console.width = max(console.width, 100)
    tables.print_plan(planner, plan, console)
    if conf.out:
        curve = [planner.plan(length) for length in sorted(conf.lengths)]
        measured = page.measured_points(planner, [group_place(run) for run in conf.runs])
        with writing(folder, "out"), filling(folder, last="index.html") as aside:
            text = json.dumps(tables.as_json(planner, [plan, *curve]), indent=1)
            (aside / "plan.json").write_text(text, encoding="utf-8")
            if curve:
                drawn = page.page(planner, curve, measured)
                (aside / "index.html").write_text(drawn, encoding="utf-8")
        print(f"wrote {folder / 'plan.json'}")
        if curve:
            print(f"open {folder / 'index.html'}")
    check_fits(plan, planner.machine)
