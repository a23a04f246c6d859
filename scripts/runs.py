"""All runs, what became of each, and which began from which: `python scripts/runs.py tree`."""

from __future__ import annotations

from scripts.cli.launch import launch

if __name__ == "__main__":  # before the imports that take long: a wrong word is answered at once
    launch("runs", "scripts.runs:main")

from pathlib import Path

from rich.console import Console
from rich.text import Text
from rich.tree import Tree

from conf.schema import RunsConf
from core.errors import escaped
from training.run_folder.lineage import Run, is_there, read_runs

WIDTH = 80


def main(conf: RunsConf) -> None:
    """Print the runs as a tree; one that began from another stands below it."""
    runs = read_runs(Path(conf.runs_dir))
    console = Console(width=max(WIDTH, Console().width), markup=False, emoji=False, highlight=False)
    if not runs:
        console.print(f"{conf.runs_dir}: no runs yet")
        return
    tree = Tree(Text(conf.runs_dir))
    for run in runs:
        if run.origin is None:
            grow(tree, run)
    console.print(tree)


def grow(tree: Tree, root: Run) -> None:
    """Add a run and all that began from it."""
    rest = [(tree, root)]
    while rest:
        above, run = rest.pop(0)
        branch = above.add(label(run))
        rest += [(branch, child) for child in run.children]


def label(run: Run) -> Text:
    """Its name, and below it what it took, how it ended and how far it came; whole, if wrapped."""
    text = Text(escaped(run.name), style="bold")  # the folder's, which may be called anything
    if run.is_damaged:
        return text.append(escaped(f"  {run.status}"), style="not bold red")
    parts = [f"{came_from(run)}; {run.status}" if run.parent else run.status]
    if run.steps and not run.status.startswith(("interrupted", "running")):
        parts.append(f"{run.steps:,} steps")
    if run.tokens:
        parts.append(f"{run.tokens:,} tokens")
    if run.val_loss:
        parts.append(f"val loss {run.val_loss:#.5g}")
    lines = [", ".join(parts)]
    for change in run.changes:
        values = (f"{key} {old} -> {new}" for key, (old, new) in change["changed"].items())
        lines.append(f"after step {change['step']}: {', '.join(values)}")
    for line in lines:
        text.append(f"\n{escaped(line)}", style="not bold")
    return text


def came_from(run: Run) -> str:
    """What was taken over, from where, and whether that is still there."""
    parent = run.parent
    assert parent is not None
    place = f"step {parent.step}" if parent.step else ""
    if run.origin is None:
        place = f"{parent.path} (its source, now gone)" if not is_there(run) else parent.path
    elif not is_there(run):
        place += " (no longer there)"
    return f"{parent.taken} of {place}"
