"""What a checkpoint must hold before anything of it is restored.

A manifest says that a file is as it was written, not what it is. Lightning restores what it finds:
without `loops` it would start over, and a wrong type ends in a traceback when half is restored.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import asdict, fields
from typing import Any

import lightning
import numpy as np
import torch
from lightning.fabric.plugins.environments import LightningEnvironment
from torch import Tensor

from conf.schema import OPTIMIZERS
from core.errors import UserError, shown
from core.parsing import plain
from models.formats.tuned import PART
from models.meta import build_meta
from models.registry import ModelSpec
from models.tuning import Tuning, frozen_names, tune
from training.checkpoints.plain import Unfit
from training.loop import ema
from training.loop.optim import LIKE_ADAMW, SETTINGS, AdamW, optimizer_groups
from training.loop.quiet_lightning import quiet
from training.run_folder.begun import is_parent
from training.run_folder.identity import another_weights
from training.run_folder.ledger import Ledger

FORMAT = 1
"""Version of our part of a checkpoint; those written before it was counted have none."""
SINCE_FORMAT_1 = ("run", "ledger", "machine", "moments", "scales", "rows")
WEIGHTS = {"bf16-true": torch.bfloat16}  # what training in a precision keeps; all others: fp32
ORDER = ("seed", "length", "batch_size", "accumulate")
GROWING = ("batch_warmup", "length_warmup")  # may be there too
TENSORS = ("state_dict", "optimizer_states", "random", ema.KEY)
"""Parts of a checkpoint, and of ours in it, that hold tensors; all others hold what JSON can."""


def check_whole(content: dict[str, Any], spec: ModelSpec, precision: str | None) -> None:
    """Raise `Unfit` unless `content`, which is plain, can be restored whole into a training of
    `spec`, begun with `precision` (None: with any). Of a checkpoint of another model only our own
    part is looked at."""
    step: Any = content.get("global_step")
    _need(is_count(step) and step > 0, "global_step")
    ours: Any = content.get("crossover")
    _need(isinstance(ours, dict), "crossover")
    # What is compared, printed and written into other files must be no more than JSON can hold.
    for key, value in [*(content | {"crossover": None}).items(), *ours.items()]:
        try:
            plain({key: None if key in TENSORS else value})
        except ValueError as error:
            raise Unfit(f"{shown(key)} is wrong ({error})") from None
    _check_own(ours, step)
    if another_weights(content["crossover"]["identity"]["model"], asdict(spec)):
        return  # `check_checkpoint` reports whose checkpoint it is
    version: Any = content.get("pytorch-lightning_version")
    minor = lightning.__version__.rpartition(".")[0]
    _need(
        isinstance(version, str) and version.rpartition(".")[0] == minor,
        f"Lightning's version ({shown(version, 20)}, not {minor}.*)",
    )
    _need(is_count(content.get("epoch")), "epoch")
    left_out = 0
    for key in ("skipped_steps", "overflowed_steps"):  # older checkpoints have not the second
        count = content.get(key, 0)
        _need(is_count(count) and left_out + count <= step, key)
        left_out += count
    model = build_meta(spec)
    _check_tuning(ours.get(PART), model)
    kept = WEIGHTS.get(precision, torch.float32) if precision else None
    _check_weights(content.get("state_dict"), model, kept)
    if ema.KEY in content or ours.get("run", {}).get("optim.ema"):
        _check_weights(content.get(ema.KEY), model, torch.float32, ema.KEY)
    weights = {
        name: content["state_dict"][f"model.{name}"]
        for name, each in model.named_parameters()
        if each.requires_grad
    }
    name = content["crossover"].get("run", {}).get("optim.name", "adamw")
    _need(name in OPTIMIZERS, "crossover.run, optim.name")
    groups = [
        (group.muon, [weights[name] for name in group.names])
        for group in optimizer_groups(model, name)
    ]
    _check_optimizer(content, groups, step, step == left_out)
    _check_schedule(content.get("lr_schedulers"), len(groups), step)
    _check_loops(content.get("loops"), step)
    callbacks = content.get("callbacks")
    times: Any = callbacks.get("Monitor") if isinstance(callbacks, dict) else None
    if isinstance(times, dict):
        # Older checkpoints hold no such sums; joules are counted only if asked for.
        times = {"all_seconds": None, "joules": None, **times}
    _need_keys(times, ("tokens", "seconds", "all_seconds", "joules"), "callbacks")
    seconds, every, joules = times["seconds"], times["all_seconds"], times["joules"]
    _need(joules is None or is_number(joules), "callbacks")
    _need(is_count(times["tokens"]) and is_number(seconds), "callbacks")
    _need(every is None or is_number(every), "callbacks")
    if isinstance(callbacks, dict) and "EarlyEnd" in callbacks:
        _check_early_end(callbacks["EarlyEnd"])
    for key in content["crossover"].get("scales", ()):
        scale = content.get(key)
        _need(isinstance(scale, dict) and all(map(is_number, scale.values())), shown(key))


def is_count(value: Any) -> bool:
    """A whole number that can count something here."""
    return type(value) is int and 0 <= value < 1 << 63


def is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _need(holds: bool, place: str) -> None:
    if not holds:
        raise Unfit(f"{place} is missing or wrong")


def _need_keys(mapping: Any, keys: Any, place: str) -> None:
    _need(isinstance(mapping, dict) and mapping.keys() == {*keys}, place)


def _check_own(ours: dict[str, Any], step: int) -> None:
    form = ours.get("format")
    if form is None and "run" not in ours:
        absent: tuple[str, ...] = SINCE_FORMAT_1
    else:
        _need(type(form) is int, "the number of its format")
        if form != FORMAT:
            raise Unfit(
                f"format {shown(form)}, of another version of Crossover; this one reads {FORMAT}"
            )
        absent = ()
    for key in SINCE_FORMAT_1:
        _need(key in ours or key in absent, f"crossover.{key}")
    identity: Any = ours.get("identity")
    _need_keys(identity, ("model", "data"), "identity")
    _need(isinstance(identity["data"], str), "identity.data")
    _need_keys(identity["model"], (field.name for field in fields(ModelSpec)), "identity.model")
    for key, value in identity["model"].items():
        _need(isinstance(value, dict if key == "config" else str), f"identity.model.{key}")
    for key in ("run", "machine"):
        _need(isinstance(ours.get(key, {}), dict), f"crossover.{key}")
    machine = ours.get("machine", {}).values()
    _need(all(type(value) in (int, str) for value in machine), "crossover.machine")
    scales = ours.get("scales", [])
    _need(isinstance(scales, list) and all(isinstance(name, str) for name in scales), "scales")
    _need(is_count(ours.get("moments", 0)), "crossover.moments")
    if ours.get("rows") is not None:
        _need_keys(ours["rows"], ("count", "sha256"), "crossover.rows")
        rows = ours["rows"]
        _need(is_count(rows["count"]) and isinstance(rows["sha256"], str), "crossover.rows")
    _need(isinstance(ours.get("measured", ""), str | None), "crossover.measured")
    best = ours.get("best")
    lowest = ours.get("lowest", [])  # older checkpoints have none
    _need(isinstance(lowest, list), "lowest")
    for each in [*lowest, *([] if best is None else [best])]:
        _need_keys(each, ("step", "val_loss"), "best")
        _need(is_count(each["step"]) and each["step"] <= step, "best")
        _need(type(each["val_loss"]) in (int, float), "best")
    if "ledger" in ours:
        _check_ledger(ours["ledger"])
    states: Any = ours.get("random")
    _need(isinstance(states, list) and bool(states), "random")
    for state in states:
        _check_random(state)


def _check_tuning(part: Any, model: Any) -> None:
    """Give the model the parts that a fine-tuning trains, if the checkpoint is of one."""
    if part is None:
        return
    _need_keys(part, ("tuning", "frozen"), PART)
    _need(isinstance(part["frozen"], str), f"{PART}.frozen")
    try:
        with torch.device("meta"):
            tune(model, Tuning.parse(part["tuning"]))
    except (ValueError, UserError):
        raise Unfit(f"{PART}.tuning is missing or wrong") from None


def _check_early_end(state: Any) -> None:
    if isinstance(state, dict):
        state = {"pruned": False, **state}  # older checkpoints do not say
    _need_keys(state, ("best", "waited", "reason", "pruned"), "callbacks")
    _need(isinstance(state["pruned"], bool), "callbacks")
    _need(state["best"] is None or is_number(state["best"]), "callbacks")
    _need(is_count(state["waited"]), "callbacks")
    _need(state["reason"] is None or isinstance(state["reason"], str), "callbacks")


def _check_ledger(ledger: Any) -> None:
    if isinstance(ledger, dict):
        # Older checkpoints have none.
        added = {"inherited_flops": None, "trained_tokens": None, "spared_flops": 0}
        ledger = {"settings": {}, "changes": [], **added, **ledger}
    _need_keys(ledger, (field.name for field in fields(Ledger)), "ledger")
    sums = "tokens", "trained_tokens", "forward_flops", "inherited_flops", "spared_flops"
    for key in (*sums, "max_steps"):
        value = ledger[key]
        _need(value is None or (type(value) is int and value >= 0), f"ledger.{key}")
    if ledger["order"] is not None:
        _need(isinstance(ledger["order"], dict), "ledger.order")
        _need_keys(dict.fromkeys(GROWING) | ledger["order"], (*ORDER, *GROWING), "ledger.order")
        _need(all(map(is_count, ledger["order"].values())), "ledger.order")
    _need(ledger["parent"] is None or is_parent(ledger["parent"]), "ledger.parent")
    changes = ledger["schedule_changes"]
    _need(
        isinstance(changes, list) and all(isinstance(change, str) for change in changes), "ledger"
    )
    _need(isinstance(ledger["settings"], dict), "ledger.settings")
    _need(isinstance(ledger["changes"], list), "ledger.changes")
    for entry in ledger["changes"]:
        _need_keys(entry, ("step", "changed"), "ledger.changes")
        _need(is_count(entry["step"]) and isinstance(entry["changed"], dict), "ledger.changes")
        pairs = entry["changed"].values()
        _need(all(isinstance(pair, list) and len(pair) == 2 for pair in pairs), "ledger.changes")


def _check_random(state: Any) -> None:
    """Try the state on generators that nothing uses."""
    try:
        version, internal, gauss = state["python"]
        random.Random().setstate((version, tuple(internal), gauss))
        kind, keys, position, has_gauss, cached = state["numpy"]
        if type(position) is not int or not 0 <= position <= 624:  # NumPy would read beyond
            raise ValueError
        np.random.RandomState().set_state((kind, keys.numpy(), position, has_gauss, cached))
        torch.Generator().set_state(state["torch"])
        if "cuda" in state and (state["cuda"].dtype != torch.uint8 or state["cuda"].numel() != 16):
            raise ValueError
    except Exception:  # each library complains in its own way
        raise Unfit("random is missing or wrong") from None


def _check_weights(
    weights: Any, model: Any, kept: torch.dtype | None, part: str = "state_dict"
) -> None:
    _need(isinstance(weights, dict), part)
    left = frozen_names(model)
    expected = {
        f"model.{name}": tensor for name, tensor in model.state_dict().items() if name not in left
    }
    if odd := sorted(map(str, weights.keys() ^ expected.keys())):
        raise Unfit(f"{part} has not the tensors of this model ({shown(odd[0], 80)})")
    for name, tensor in expected.items():
        _check_tensor(weights[name], tensor.shape, f"{part}, {name}")
        same = weights[name].is_floating_point() == tensor.is_floating_point()
        if tensor.is_floating_point() and kept is not None:
            same = weights[name].dtype == kept
        _need(same, f"{part}, {name}: its type")
    if getattr(model.config, "tie_embeddings", None) and not left:
        head = weights["model.head.weight"]
        same = head.is_meta or torch.equal(weights["model.emb.weight"], head)
        _need(same, f"{part}, head.weight (it is tied)")


def _check_tensor(tensor: Any, shape: Any, place: str) -> None:
    _need(isinstance(tensor, Tensor), place)
    if tensor.shape != shape:
        raise Unfit(f"{place} has the shape {[*tensor.shape]}, not {[*shape]}")


def _check_optimizer(
    content: dict[str, Any], groups: list[tuple[bool, list[Tensor]]], step: int, may_be_empty: bool
) -> None:
    """`groups` are the weights of each, whose shapes and types their moments have, and whether
    Muon has it."""
    states: Any = content.get("optimizer_states")
    _need(isinstance(states, list) and len(states) == 1, "optimizer_states")
    _need_keys(states[0], ("state", "param_groups"), "optimizer_states")
    state, saved_groups = states[0]["state"], states[0]["param_groups"]
    _need(
        isinstance(saved_groups, list) and len(saved_groups) == len(groups),
        "optimizer_states.param_groups",
    )
    defaults: dict[bool, dict[str, Any]] = {
        False: AdamW([torch.zeros(1)], fused=True).param_groups[0],
        True: torch.optim.Muon([torch.zeros(1, 1)], adjust_lr_fn=LIKE_ADAMW).param_groups[0],
    }
    first = 0
    for group, (muon, weights) in zip(saved_groups, groups, strict=True):
        usual = defaults[muon]
        settings = {key for key in SETTINGS if key in {*usual, "initial_lr"}}
        held = isinstance(group, dict) and {*usual, *settings} <= group.keys()
        _need(held, "optimizer_states.param_groups")  # DeepSpeed may add to them
        alike = {*usual} - {*settings, "lr", "params"}
        same = all(_is_equal(group[key], usual[key]) for key in alike)
        same = same and all(is_number(group[key]) for key in {*settings, "lr"} - {"betas"})
        same = same and ("betas" not in settings or _is_list(group["betas"], 2, is_number))
        same = same and _is_list(group["params"], len(weights), is_count)
        same = same and group["params"] == [*range(first, first + len(weights))]
        _need(same, "optimizer_states.param_groups")
        first += len(weights)
    _need(isinstance(state, dict) and {*state} <= {*range(first)}, "optimizer_states.state")
    _need(len(state) == content["crossover"].get("moments", len(state)), "optimizer_states.state")
    _need(bool(state) or may_be_empty, "optimizer_states.state")
    parts = [(muon, weight) for muon, weights in groups for weight in weights]
    for index, (muon, weight) in enumerate(parts):
        if index not in state:  # it has had no gradient yet
            continue
        place = f"optimizer_states, moments {index}"
        moments = ("momentum_buffer",) if muon else ("exp_avg", "exp_avg_sq")
        _need_keys(state[index], moments if muon else ("step", *moments), place)
        if not muon:
            _check_tensor(state[index]["step"], torch.Size(), place)
            _need(state[index]["step"].dtype == torch.float32, place)
            _need(0 < float(state[index]["step"]) <= step, place)
        for key in moments:
            _check_tensor(state[index][key], weight.shape, place)
            _need(state[index][key].dtype == weight.dtype, f"{place}: their type")


def _check_schedule(schedules: Any, groups: int, step: int) -> None:
    _need(isinstance(schedules, list) and len(schedules) == 1, "lr_schedulers")
    usual = torch.optim.lr_scheduler.LambdaLR(AdamW([torch.zeros(1)]), lambda step: 1.0)
    _need_keys(schedules[0], usual.state_dict(), "lr_schedulers")
    for key, value in schedules[0].items():
        if key in ("base_lrs", "_last_lr"):
            _need(_is_list(value, groups, is_number), f"lr_schedulers.{key}")
        elif key == "lr_lambdas":  # attributes that would be set in our functions
            _need(_is_list(value, groups, lambda element: element is None), f"lr_schedulers.{key}")
        else:
            _need(type(value) is type(getattr(usual, key)), f"lr_schedulers.{key}")
    _need(schedules[0]["last_epoch"] == step, "lr_schedulers.last_epoch")


def _is_list(value: Any, length: int, fits: Callable[[Any], bool]) -> bool:
    return isinstance(value, (list, tuple)) and len(value) == length and all(map(fits, value))


def _is_equal(value: Any, usual: Any) -> bool:
    """Equal and of the same type, in whichever kind of sequence."""
    if isinstance(usual, tuple):
        return isinstance(value, (list, tuple)) and tuple(value) == usual
    return type(value) is type(usual) and bool(value == usual)


def _check_loops(loops: Any, step: int) -> None:
    _need(isinstance(loops, dict) and isinstance(loops.get("fit_loop"), dict), "loops")
    fit = loops["fit_loop"]
    _check_counts(fit, fresh_loops(), "loops.fit_loop")
    made = fit["epoch_loop.automatic_optimization.optim_progress"]["optimizer"]["step"]["total"]
    _need(made["completed"] == made["ready"] == step, "loops: their step")


def _check_counts(counts: Any, usual: Any, place: str) -> None:
    """Check the tree of counts, whatever their values. A state that is empty when fresh may hold
    counts of its own."""
    if isinstance(usual, dict):
        _need(isinstance(counts, dict), place)
        if usual:
            _need_keys(counts, usual, place)
        for key, value in counts.items():
            _check_counts(value, usual.get(key, 0), f"{place}.{key}")
    elif isinstance(usual, bool):
        _need(isinstance(counts, bool), place)
    else:
        _need(is_count(counts), place)


def fresh_loops() -> dict[str, Any]:
    """What Lightning would save of a training that has not begun."""
    with quiet():
        trainer = lightning.Trainer(
            accelerator="cpu",
            devices=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            plugins=[LightningEnvironment()],
        )
    return trainer.fit_loop.state_dict()
