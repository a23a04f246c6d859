"""Save a workspace in Weights & Biases: losses over steps, tokens, operations, seconds, joules and
cost, with runs that differ in nothing but the seed as one line and its band.

    pip install wandb-workspaces
    python examples/wandb_workspace.py ENTITY PROJECT         # saves it, prints its address
    python examples/wandb_workspace.py ENTITY PROJECT --show  # prints it, without a network

Trainings and probes of one `group=` are in one group there: filter the runs by Group.
"""

from __future__ import annotations

import sys
from typing import Any

GROUP_BY = "setting"
"""Key of a run's configuration: equal for trainings that differ in nothing but the seed."""
AXES = {
    "steps": "trainer/global_step",
    "tokens": "train/tokens",
    "operations": "train/flops",
    "seconds": "train/seconds",
    "joules": "train/joules",  # with training.also=[joules]
    "cost": "train/cost",  # with training.price_per_hour=
}
LOSSES = ("val/loss", "train/loss")
PROBES = tuple(f"probe/{probe}/batch_1/seconds" for probe in ("train", "prefill", "decode"))
PROBED_OVER = "context_length"


def workspace(entity: str, project: str) -> Any:
    """One section for each loss with a plot over each axis, and one of probes."""
    import wandb_workspaces.reports.v2 as parts
    import wandb_workspaces.workspaces as ws

    def plot(title: str, x: str, y: str) -> Any:
        return parts.LinePlot(title=title, x=x, y=[y], groupby_aggfunc="mean",
                              groupby_rangefunc="minmax")  # fmt: skip

    # One per loss, with the same axes, so that they can be compared at one glance.
    sections = [
        ws.Section(
            name=loss,
            panels=[plot(f"{loss} over {name}", axis, loss) for name, axis in AXES.items()],
            is_open=loss == LOSSES[0],
        )
        for loss in LOSSES
    ]
    probes = [plot(f"{probe} over context length", PROBED_OVER, probe) for probe in PROBES]
    sections.append(ws.Section(name="probes", panels=probes))
    return ws.Workspace(
        entity=entity,
        project=project,
        name="Crossover: losses over every axis",
        sections=sections,
        runset_settings=ws.RunsetSettings(groupby=[ws.Config(GROUP_BY)]),
    )


if __name__ == "__main__":
    words = [word for word in sys.argv[1:] if word != "--show"]
    if len(words) != 2:
        sys.exit(__doc__)
    made = workspace(*words)
    if "--show" in sys.argv:
        print(made._to_model().model_dump_json(indent=2, by_alias=True))
    else:
        print(made.save().url)
