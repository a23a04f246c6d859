"""Stacks of several kinds of blocks: `rwkv7*3,attention` is three of RWKV-7's and one that attends.

Each block is that of the model it comes from, with its own norms and its own feed-forward layer.
What blocks share is handed up the stack: positions for attention, the first RWKV-7 layer's value
for all others of RWKV-7. Embedding, final norm and head are those of the lowest block's kind, and
so are their first values, so a stack of one kind is that model, to the bit.

A stack is recurrent if all its blocks are. Otherwise its state is a cache where a block attends,
and of one size elsewhere.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any, get_type_hints

import yaml
from torch import Tensor, nn

from core.bounds import nearest
from core.errors import UserError, shown
from models import layer_pattern
from models.contract import ParamGroup, State
from models.gated_deltanet import GatedDeltaNet
from models.gru import GRU
from models.hull import Hull
from models.layers.attention_block import AttentionTrunk, dropout, rope_table
from models.layers.trunk import Block, Stream, Trunk
from models.linear_attention import LinearTransformer
from models.lstm import LSTM
from models.mamba2 import Mamba2
from models.rwkv4 import RWKV4
from models.rwkv5 import RWKV5
from models.rwkv6 import RWKV6
from models.rwkv7 import RWKV7
from models.transformer import Transformer

KINDS: dict[str, Any] = {
    "attention": Transformer,
    "gated_deltanet": GatedDeltaNet,
    "gru": GRU,
    "hull": Hull,
    "linear_attention": LinearTransformer,
    "lstm": LSTM,
    "mamba2": Mamba2,
    "rwkv4": RWKV4,
    "rwkv5": RWKV5,
    "rwkv6": RWKV6,
    "rwkv7": RWKV7,
}
"""The model that a block comes from, by what it is called in `layers`."""
SHARED = (
    "vocab_size", "n_layer", "n_embd", "wkv", "attention", "windows", "tie_embeddings",
    "emb_norm", "margin", "margin_weight", "rope_base", "rope_factor", "rope_low", "rope_high",
    "rope_length",
)  # fmt: skip
"""Fields that are of a whole stack, or of models alone."""
_BLOCK = re.compile(r"(\w+)(?:\((.*)\))?")


@dataclass(frozen=True)
class Kind:
    """Blocks that are built alike."""

    model: Any
    """The class of the model they come from."""
    config: Any
    """That model's config, of as many layers as the whole stack has."""


@dataclass(frozen=True)
class HybridConfig:
    """Shape letters in brackets."""

    vocab_size: int  # [V]
    layers: str  # blocks from the bottom up, again and again: rwkv7*3,attention(window=64)
    n_embd: int  # [C]
    n_layer: int | None = None  # [L]; default as many as `layers` has
    head_size: int = 64  # [N], of every block that has heads
    n_ffn: str | None = None  # [F] by kind of block: rwkv7=256,attention=192; default their models'
    wkv: str = "auto"  # back end of the recurrences: auto | reference | cpu | cuda
    attention: str = "auto"  # auto | flash | efficient | cudnn | math

    def __post_init__(self) -> None:
        if self.n_layer is None:
            period = layer_pattern.expand(self.layers, "model.layers")
            object.__setattr__(self, "n_layer", len(period))
        self.kinds()

    def kinds(self) -> list[Kind]:
        """The kind of every layer, from the bottom up: the same object where blocks are alike.

        Raises `UserError` for a block that nobody knows, or a field that it does not have.
        """
        period = layer_pattern.expand(self.layers, "model.layers")
        widths = dict(_widths(self.n_ffn or ""))
        made = {text: self._kind(text, widths) for text in dict.fromkeys(period)}
        assert self.n_layer is not None
        return [made[period[layer % len(period)]] for layer in range(self.n_layer)]

    def _kind(self, text: str, widths: Mapping[str, int]) -> Kind:
        name, options = _block(text)
        model = KINDS[name]
        known = {item.name for item in fields(model.Config)}
        own = known - {*SHARED, *(("head_size",) if model is Transformer else ())}
        if unknown := sorted(set(options) - own):
            raise UserError(
                f"model.layers: {shown(repr(text), 100)} sets {shown(unknown[0], 40)}, which is no "
                f"field of that block alone; it has {', '.join(sorted(own))}"
            )
        given: dict[str, Any] = {
            name: getattr(self, name)
            for name in ("vocab_size", "n_layer", "n_embd", "head_size", "wkv", "attention")
            if name in known
        }
        if name in widths:
            given["n_ffn"] = widths[name]
        if model is Transformer:
            if self.n_embd % self.head_size:
                raise UserError(
                    f"model.n_embd={self.n_embd} must be a multiple of model.head_size="
                    f"{self.head_size}"
                )
            given["n_head"] = self.n_embd // self.head_size
        hints = get_type_hints(model.Config)
        for field, value in options.items():
            if not isinstance(value, hints[field]) and not (
                type(value) is int and isinstance(float(value), hints[field])
            ):
                raise UserError(
                    f"model.layers: {shown(repr(text), 100)}: {field}={shown(repr(value), 40)} is "
                    f"not of the type {getattr(hints[field], '__name__', hints[field])}"
                )
        return Kind(model, model.Config(**{**given, **options}))


class Hybrid(AttentionTrunk):
    """Embedding, L blocks of any kinds, the final norm and the head of the lowest one's."""

    Config = HybridConfig
    title = "the hybrid"
    options = ("layers", "wkv", "attention")
    can_fix = False  # its blocks keep states of several kinds

    def __init__(self, config: HybridConfig) -> None:
        nn.Module.__init__(self)
        self._kinds = config.kinds()
        self.attends = any(kind.model is Transformer for kind in self._kinds)
        self.recurrent = all(kind.model.recurrent for kind in self._kinds)  # type: ignore[misc]
        self.can_file = all(kind.model.can_file for kind in self._kinds)  # type: ignore[misc]
        self.chooses = any(kind.model.chooses for kind in self._kinds)  # type: ignore[misc]
        self.can_span = all(kind.model.can_span for kind in self._kinds)  # type: ignore[misc]
        super().__init__(config)

    @classmethod
    def is_recurrent(cls, config: Mapping[str, Any]) -> bool:
        period = layer_pattern.expand(config["layers"], "model.layers")
        return all(KINDS[_block(text)[0]].recurrent for text in period[: config.get("n_layer")])

    @property
    def can_step(self) -> bool:
        return all(part.can_step for part in self._parts())

    def build_block(self, layer: int) -> Block:
        return self._bare(self._kinds[layer]).build_block(layer)

    def build_norm(self) -> nn.Module:
        return self._bare(self._kinds[0]).build_norm()

    def initialise(self) -> None:
        for part in reversed([*self._parts()]):  # the lowest kind last: the ends are its own
            part.initialise()

    def param_groups(self) -> list[ParamGroup]:
        names: dict[tuple[float, bool], list[str]] = {}
        for number, part in enumerate(self._parts()):
            if number:
                del part.emb, part.head, part.ln_out
            for group in part.param_groups():
                names.setdefault((group.lr_scale, group.decay), []).extend(group.names)
        return [ParamGroup(tuple(found), *key) for key, found in names.items()]

    def mixer_backends(self) -> dict[str, str]:
        return {
            name: used for part in self._parts() for name, used in part.mixer_backends().items()
        }

    def embed(self, tokens: Tensor, state: State | None) -> Stream:
        x = self.emb(tokens)  # [B, T, C]
        if self._kinds[0].model is Transformer:
            x = dropout(x, self._kinds[0].config.dropout, self)
        if not self.attends:
            return Stream(x)
        length = tokens.shape[1]
        past = self.first_position(state, length)
        config = next(kind.config for kind in self._kinds if kind.model is Transformer)
        return Stream(x, (past, rope_table(past, length, config.width_of_head, config.rotation, x)))

    def _parts(self) -> Iterator[Trunk]:
        """The stack as models of one kind each that hold its modules, the lowest kind first.

        Embedding, final norm and head are in all of them.
        """
        for kind in {id(kind): kind for kind in self._kinds}.values():
            part = self._bare(kind)
            part.emb, part.ln_out, part.head = self.emb, self.ln_out, self.head
            part.blocks = nn.ModuleList()
            for layer, block in enumerate(self.layers):
                if self._kinds[layer] is kind:
                    part.blocks.add_module(str(layer), block)
            yield part

    def _bare(self, kind: Kind) -> Trunk:
        """A model of this kind without any module."""
        part: Trunk = kind.model.__new__(kind.model)
        nn.Module.__init__(part)
        part.config = kind.config
        alike = [layer for layer, one in enumerate(self._kinds) if one.model is kind.model]
        part.first_layer = alike[0]
        return part


def _block(text: str) -> tuple[str, dict[str, Any]]:
    """`attention(window=64)` as its name and its options. Raises `UserError` for anything else."""
    found = _BLOCK.fullmatch(text)
    if found is None or found[1] not in KINDS:
        name = text.partition("(")[0]
        raise UserError(
            f"model.layers: no block is called {shown(repr(name), 60)}{nearest(name, [*KINDS])}"
        )
    options: dict[str, Any] = {}
    for option in filter(None, map(str.strip, (found[2] or "").split(","))):
        field, equals, value = option.partition("=")
        try:
            options[field.strip()] = yaml.safe_load(value)
        except yaml.YAMLError:
            equals = ""
        if not equals:
            raise UserError(
                f"model.layers: {shown(repr(text), 100)}: expected options as in "
                "attention(window=64)"
            )
    return found[1], options


def _widths(text: str) -> Iterator[tuple[str, int]]:
    """Widths of feed-forward layers by kind of block. Raises `UserError` for anything else."""
    for part in filter(None, map(str.strip, text.split(","))):
        name, _, number = map(str.strip, part.partition("="))
        if name not in KINDS:
            raise UserError(
                f"model.n_ffn: no block is called {shown(repr(name), 60)}{nearest(name, [*KINDS])}"
            )
        if not number.isascii() or not number.isdigit() or not int(number):
            raise UserError(
                f"model.n_ffn={shown(repr(text), 100)}: expected widths by kind of block, as in "
                "rwkv7=256,attention=192"
            )
        yield name, int(number)
