"""Official RWKV weights (4, 5.0, 5.1, 5.2, 6, 7): flat names and tensors, no configuration.

The names are those of our models, so that nothing is renamed. Every size is read from the shapes:
released models follow no one formula for them. What the file holds must then be exactly what the
model of those sizes is made of.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from core.errors import UserError, shown
from models.formats import tuned
from models.formats.tensor_files import write_pth
from models.formats.weights import Weights, checked, listed, shapes_of
from models.registry import ModelSpec

TARGETS = {
    "rwkv4": "models.rwkv4.RWKV4",
    "rwkv5": "models.rwkv5.RWKV5",
    "rwkv6": "models.rwkv6.RWKV6",
    "rwkv7": "models.rwkv7.RWKV7",
}

# Options of the official trainers that change the model, and the names that give them away.
_VARIANTS = {
    r"\.ffnPre\.|\.ln1_pre": "pre_ffn",
    r"^head_[qk]\.|^copy_mask$": "head_qk",
    r"\.tiny_": "tiny attention",
    r"\.ffn\.s_emb|\.ffn\.s[012]$": "DeepEmbed (v7a, v7b)",
    r"\.att\.time_state$": "a tuned initial state (time_state)",
    r"^pos_emb": "learned positions",
}

EMBEDDING = "emb.weight"  # which every version has

# The value residual starts at layer 1: v0, v1 and v2 of layer 0 exist in some files, unread.
_UNREAD = re.compile(r"blocks\.0\.att\.v[012]")


def write(weights: Weights, path: Path) -> None:
    """An official `.pth`; a learned state is in it where the package `rwkv` takes it from there.

    Raises `UserError` if the model is not an RWKV, or the package takes no state of it there.
    """
    if weights.spec.target not in TARGETS.values():
        raise UserError(
            f"format=official is for {', '.join(TARGETS)}, and this is a {weights.spec.name}: "
            "use format=safetensors"
        )
    states = {}
    if weights.initial:
        if not tuned.LAYOUTS.get(weights.spec.target):
            raise UserError(
                f"format=official: the package rwkv takes no state of {weights.spec.name} from a "
                "file of weights: format=state writes the state alone, for the weights that the "
                "run began with; format=safetensors keeps both"
            )
        states = tuned.time_states(weights, "format=official")
    tensors = weights.tensors
    if weights.spec.config.get("ungated"):
        tensors = _per_head(tensors)
    write_pth(path, {**tensors, **weights.unused, **states})


def from_tensors(path: Path, tensors: Mapping[str, Tensor]) -> Weights:
    """The model of official tensors, wherever they come from.

    Raises `UserError` naming the file and what is wrong in it: another version or variant, a
    tensor missing, unknown, misshapen or not finite, or no RWKV at all.
    """
    # A model that was an attribute of something else, as in a LightningModule, has the path to it
    # in front of each name: `model.emb.weight`.
    owners = [
        name.removesuffix(EMBEDDING) for name in tensors if f".{name}".endswith(f".{EMBEDDING}")
    ]
    if len(owners) > 1:
        several = listed([owner + EMBEDDING for owner in owners])
        raise UserError(f"{path} holds several models ({several}): save the one meant")
    owner = owners[0] if owners else ""
    ours = {name.removeprefix(owner): tensor for name, tensor in tensors.items()}
    if len(ours) < len(tensors):
        raise UserError(f"{path} holds several models: some names differ only in {owner!r:.200}")
    name = version(path, ours)
    if name == "rwkv5":
        ours = _per_channel(ours)
    spec = spec_of(path, name, ours)
    unread = {key: ours.pop(key) for key in [*ours] if name == "rwkv7" and _UNREAD.fullmatch(key)}
    kept = checked(path, ours, shapes_of(spec))
    unused = checked(path, unread, {key: tensor.shape for key, tensor in unread.items()})
    return Weights(spec, kept, unused)


def version(path: Path, tensors: Mapping[str, Tensor]) -> str:
    """`rwkv4` to `rwkv7`, by the names of the first block. Raises `UserError` for any other."""
    names = "\n".join(tensors)
    for pattern, variant in _VARIANTS.items():
        if matched := re.search(f".*(?:{pattern}).*", names, re.MULTILINE):
            raise UserError(f"{path}: {variant} is not supported ({shown(matched[0], 200)})")
    inside = {name.removeprefix("blocks.0.att.") for name in tensors}
    has = inside.__contains__
    if has("r_k"):
        return "rwkv7"
    if has("time_maa_x"):
        if not has("gate.weight"):
            raise UserError(f"{path}: a research variant of RWKV-6 (x060a, b or c), not 6.0")
        return "rwkv6"
    if has("time_decay") and has("ln_x.weight"):
        return "rwkv5"
    if has("time_decay") and has("time_first"):
        return "rwkv4"
    hint = ""
    if any(name.startswith(("rwkv.", "model.", "transformer.")) for name in tensors):
        hint = "; it looks like Hugging Face's: give its folder, with config.json"
    raise UserError(
        f"{path}: not an official RWKV file of version 4, 5, 6 or 7 "
        f"(its tensors are {listed([*tensors]) or 'none'}){hint}"
    )


def _per_channel(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """RWKV-5.0 and 5.1 as what computes the same with numbers per channel.

    They have one decay and one bonus per head, `[H]`, and not one per channel, `[H, N]`; the bonus
    may be stored as its logarithm, under another name.
    """
    newest = dict(tensors)
    for name, tensor in tensors.items():
        stem, _, last = name.rpartition(".")
        width = tensors.get(f"{stem}.ln_x.weight")
        if last not in ("time_decay", "time_faaaa", "time_first") or width is None:
            continue
        bonus = f"{stem}.time_faaaa"
        if last == "time_first" and bonus not in tensors:
            name, tensor = bonus, newest.pop(name).float().exp()
        heads = tensor.numel()
        if heads and heads < width.numel() and not width.numel() % heads:
            tensor = tensor.reshape(heads, 1).repeat(1, width.numel() // heads)
        newest[name] = tensor
    return newest


def _per_head(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse, for RWKV-5.0, of which the package `rwkv` knows no other form.

    Raises `UserError` if the channels of a head differ, as they do once they have been trained.
    """
    lean = dict(tensors)
    for name, tensor in tensors.items():
        if name.endswith((".att.time_decay", ".att.time_faaaa")):
            if not torch.equal(tensor, tensor[:, :1].expand_as(tensor)):
                raise UserError(
                    f"format=official: without a gate the package rwkv knows one number per head, "
                    f"and the channels of {name} differ: use format=safetensors"
                )
            lean[name] = tensor[:, 0].clone()
    return lean


def spec_of(path: Path, name: str, tensors: Mapping[str, Tensor]) -> ModelSpec:
    """The sizes of the model, from the shapes. Raises `UserError` if one cannot be read."""
    layers = {
        int(matched[1]) for key in tensors if (matched := re.match(r"blocks\.(\d{1,18})\.", key))
    }
    if layers != set(range(len(layers))):
        absent = next(layer for layer in range(len(layers)) if layer not in layers)
        raise UserError(f"{path}: blocks.{absent} is missing, and blocks.{max(layers)} is there")

    def size(key: str, dimension: int) -> int:
        tensor = tensors.get(key)
        if tensor is None or tensor.ndim < 2 or not tensor.numel():
            shape = "missing" if tensor is None else f"of shape {list(tensor.shape)}"
            raise UserError(f"{path}: {key} is {shape}; expected a matrix")
        return tensor.shape[dimension]

    first, last = "blocks.0.att.", f"blocks.{len(layers) - 1}.att."
    config: dict[str, Any] = {
        "vocab_size": size("emb.weight", 0),
        "n_layer": len(layers),
        "n_embd": size("emb.weight", 1),
        "n_ffn": size("blocks.0.ffn.key.weight", 0),
    }
    if name != "rwkv4":
        config["head_size"] = size(first + ("r_k" if name == "rwkv7" else "time_faaaa"), 1)
        if config["n_embd"] % config["head_size"]:
            raise UserError(
                f"{path}: its width {config['n_embd']} (emb.weight) is not a multiple of its head "
                f"size {config['head_size']}"
            )
    if name == "rwkv5" and first + "gate.weight" not in tensors:
        config["ungated"] = True
    if name == "rwkv6":
        config["lora_mix"] = size(first + "time_maa_w2", 1)
        config["lora_decay"] = size(first + "time_decay_w1", 1)
    if name == "rwkv7":
        config["lora_decay"] = size(first + "w1", 1)
        config["lora_rate"] = size(first + "a1", 1)
        config["lora_gate"] = size(first + "g1", 1)
        if len(layers) > 1:
            config["lora_value"] = size(last + "v1", 1)
    shape = f"L{config['n_layer']}-D{config['n_embd']}"
    return ModelSpec(name, shape, TARGETS[name], config)
