"""What answering would take with models of seven billion parameters, on devices that people have.

`python -m probes.plan.answering` writes the predictions that the live page draws, dashed and called
predicted; nothing of them is measured. A token moves all weights and the whole state through memory
once, and reading a text is arithmetic: both are rooflines of `conf/machine`, at the shares of the
peaks that are named there.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from torch._subclasses.fake_tensor import FakeTensorMode

from conf.schema import MachineConf
from core.files import write_text
from core.parsing import read_yaml
from models.contract import state_bytes
from models.meta import parameters
from models.registry import ModelSpec, build, is_recurrent
from probes.plan.device_rates import Roofline

CONF = Path(__file__).parents[2] / "conf"
FILE = Path(__file__).parents[2] / "serving" / "assets" / "predicted.json"
VOCABULARY = 65_536
LENGTHS = (1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000)
MODELS = {
    "rwkv7": {},
    "transformer": {"n_head": 32, "n_kv_head": 8},  # as the layout of Llama 3 has it
}
MACHINES = {"phone": 4.5, "laptop": 4.5, "h200": 16.0}
"""Bits of a weight: on small devices 4, and a scale for every 32 of them."""
ROOM = 0.75
"""Share of the memory that a model may take where others need some too."""


@dataclass(frozen=True)
class Work:
    """One model after so many tokens."""

    parameters: int
    """Those that a token moves: without the embedding, of which it takes one row."""
    state_bytes: int
    token_flops: int
    read_flops: int
    """What reading all the tokens before takes, at once."""
    mixing_flops: int
    """The part of these that mixes tokens, beyond the products with weights."""


def works(spec: ModelSpec) -> list[Work]:
    """The work of one token after each of `LENGTHS`, and of reading them; nothing is computed.

    A cache is kept in bfloat16, the state of a recurrent model in the fp32 it is kept in here.
    """
    with FakeTensorMode():
        model: Any = build(spec)
        halved = 1 if is_recurrent(spec.target, spec.config) else 2
        moved = parameters(model) - VOCABULARY * spec.config["n_embd"]
        found = []
        for length in LENGTHS:
            kept = state_bytes(model.init_state(1, length)) // halved
            read = model.flops(1, length)
            mixing = max(0, read - 2 * moved * length)
            found.append(Work(moved, kept, model.flops(1, 1, length), read, mixing))
        return found


def machine(name: str) -> MachineConf:
    """A device of `conf/machine`."""
    known = {field.name for field in fields(MachineConf)}
    values = read_yaml(CONF / "machine" / f"{name}.yaml")
    return MachineConf(**{key: value for key, value in values.items() if key in known})


def predicted(one: Work, device: MachineConf, bits: float, recurrent: bool) -> dict[str, Any]:
    """Seconds of a token and of reading, and bytes; whether it all fits into the memory."""
    rates = Roofline(device, "bf16-mixed")
    weights = one.parameters * bits / 8
    products = rates.peak_flops * device.matmul_efficiency
    mixing = device.recurrence_flops
    if not recurrent:
        mixing = rates.peak_flops * device.attention_efficiency
    reading = (one.read_flops - one.mixing_flops) / products + one.mixing_flops / mixing
    return {
        "token_seconds": _digits(
            max(rates.stream(weights + one.state_bytes), one.token_flops / products)
        ),
        "read_seconds": _digits(max(reading, rates.stream(weights))),
        "state_bytes": one.state_bytes,
        "fits": weights + one.state_bytes <= ROOM * device.memory_bytes,
    }


def _digits(value: float) -> float:
    """Three digits: a prediction has no more."""
    return float(f"{value:.3g}")


def predictions() -> dict[str, Any]:
    """All of it, as the page reads it."""
    models, all_works, recurrent = {}, {}, {}
    for name, changes in MODELS.items():
        conf = read_yaml(CONF / "model" / f"{name}.yaml")
        config = {**conf["sizes"]["7b"], **changes, "vocab_size": VOCABULARY}
        spec = ModelSpec(name, "7b", conf["target"], config)
        recurrent[name] = is_recurrent(spec.target, spec.config)
        all_works[name] = works(spec)
        total = all_works[name][0].parameters + VOCABULARY * config["n_embd"]
        models[name] = {"parameters": total, "recurrent": recurrent[name]}
    devices = []
    for name, bits in MACHINES.items():
        device = machine(name)
        points = {
            model: [predicted(one, device, bits, recurrent[model]) for one in each]
            for model, each in all_works.items()
        }
        devices.append(
            {"name": name, "title": device.title, "bits": bits, "points": points,
             "sources": dict(device.sources)}
        )  # fmt: skip
    return {"lengths": list(LENGTHS), "models": models, "machines": devices}


if __name__ == "__main__":
    write_text(FILE, json.dumps(predictions(), indent=1) + "\n")
