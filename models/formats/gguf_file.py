"""RWKV-6 and RWKV-7 as llama.cpp reads them: a GGUF file, written by the package `gguf`.

Names, shapes and metadata are those of llama.cpp's own converter, but for the rescaling of RWKV-6's
weights, which it can do without. Matrices have the precision of the weights; vectors and the small
matrices that llama.cpp keeps in float32 have that.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from core.errors import UserError
from models.formats.families.family import renamed
from models.formats.weights import Weights, common_dtype
from models.registry import model_class

ARCHITECTURES = {"models.rwkv6.RWKV6": "rwkv6", "models.rwkv7.RWKV7": "rwkv7"}
FUSED = {"rwkv6": ("time_maa_", "wkvrg"), "rwkv7": ("x_", "rwkvag")}
"""Shares of the token shift in a block that are one tensor there, and their order."""
ENDLESS = 1 << 20  # tokens: what is written where no context is too long
HEADS_OF = 64
"""Channels that llama.cpp's WKV-7 takes at once with AVX-512 (with AVX2 32), without a rest."""
NO_MERGE = "<|no merge|> <|no merge|>"
"""Never applied, because symbols begin as single characters: llama.cpp asks for one merge, and the
package `gguf` leaves out an empty list."""
UNUSED = 5  # kind of a token; `data.companions` has the others

_NAMES = (
    (r"^emb\.", "token_embd."),
    (r"^blocks\.0\.ln0\.", "token_embd_norm."),
    (r"^ln_out\.", "output_norm."),
    (r"^head\.", "output."),
    (r"^blocks\.", "blk."),
    (r"\.ln1\.", ".attn_norm."),
    (r"\.ln2\.", ".attn_norm_2."),
    (r"\.att\.ln_x\.", ".time_mix_ln."),
    (r"\.att\.time_faaaa$", ".time_mix_first"),
    (r"\.att\.time_decay", ".time_mix_decay"),
    (r"\.att\.time_maa_x$", ".time_mix_lerp_x"),
    (r"\.att\.time_maa_", ".time_mix_"),
    (r"\.att\.", ".time_mix_"),
    (r"\.ffn\.(time_maa|x)_", ".channel_mix_lerp_"),
    (r"\.ffn\.", ".channel_mix_"),
)
_TURNED = re.compile(r".*\.time_mix_(decay_)?[wavg][12]")
_WIDE = re.compile(r".*\.time_mix_(first|(decay_)?w[12]|lerp_fused)")
"""Matrices that are always float32."""


@dataclass(frozen=True)
class Vocabulary:
    """A tokenizer as GGUF holds it."""

    model: str
    """`rwkv` or `gpt2`, what llama.cpp calls its implementations."""
    tokens: list[bytes]
    kinds: list[int]
    special: dict[str, int] = field(default_factory=dict)
    """Ids of `bos`, `eos`, `eot`."""
    pre: str | None = None
    """How a text is cut before merges."""
    merges: list[str] | None = None


def write(weights: Weights, path: Path, vocabulary: Vocabulary | None) -> None:
    """A GGUF file; without a vocabulary it says that it has none.

    Raises `UserError` for other models, for heads that llama.cpp cannot run, and if the package
    `gguf` is not installed.
    """
    spec = weights.spec
    arch = ARCHITECTURES.get(spec.target)
    if arch is None:
        names = ", ".join(ARCHITECTURES.values())
        raise UserError(
            f"format=gguf is for {names}, and this is a {spec.name}: use format=hf, which "
            "llama.cpp's converter reads"
        )
    try:
        import gguf
    except ImportError:
        raise UserError("format=gguf needs a package: pip install -e '.[gguf]'") from None
    config = model_class(spec.target).Config(**spec.config)
    if arch == "rwkv7" and config.head_size % HEADS_OF:
        raise UserError(
            f"format=gguf: llama.cpp runs RWKV-7 with heads of {HEADS_OF} channels or a multiple, "
            f"and these have {config.head_size}: it would read beyond them, and give other logits"
        )
    dtype = common_dtype(weights.tensors)
    types = gguf.GGMLQuantizationType
    kind = {torch.float16: types.F16, torch.bfloat16: types.BF16}.get(dtype, types.F32)
    file_types = {
        types.F16: gguf.LlamaFileType.MOSTLY_F16,
        types.BF16: gguf.LlamaFileType.MOSTLY_BF16,
    }
    writer = gguf.GGUFWriter(path, arch)
    writer.add_type("model")
    writer.add_name(f"{spec.name}-{spec.size}")
    writer.add_file_type(file_types.get(kind, gguf.LlamaFileType.ALL_F32))
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    _describe(writer, arch, config)
    _tokenizer(writer, vocabulary, spec.config["vocab_size"])
    for name, tensor in tensors_of(arch, weights):
        values = tensor.float().contiguous().numpy()
        narrow = tensor.ndim > 1 and not _WIDE.fullmatch(name.removesuffix(".weight"))
        here = kind if narrow else types.F32
        # Rounds nothing: the values come from that precision.
        writer.add_tensor(name, gguf.quants.quantize(values, here), raw_dtype=here)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def tensors_of(arch: str, weights: Weights) -> Iterator[tuple[str, Tensor]]:
    """Names and tensors, their dimensions in torch's order, the reverse of GGUF's."""
    prefix, letters = FUSED[arch]
    shares = {f"att.{prefix}{letter}" for letter in letters}
    for name, tensor in weights.tensors.items():
        block, _, inner = name.partition(".att.")
        if f"att.{inner}" not in shares:
            yield from _translated(name, tensor)
        elif inner == prefix + letters[0]:
            streams = [weights.tensors[f"{block}.att.{prefix}{letter}"] for letter in letters]
            yield (
                f"{renamed(block, _NAMES)}.time_mix_lerp_fused.weight",
                torch.stack(streams),
            )  # [M, 1, 1, C]


def _translated(name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    there = renamed(name, _NAMES)
    if _TURNED.fullmatch(there):
        tensor = tensor.mT
    elif not there.endswith((".time_mix_first", ".weight", ".bias")):
        tensor = tensor.flatten()  # vectors, and r_k [H, N]
    if not there.endswith((".weight", ".bias")):
        there += ".weight"
    yield there, tensor
    if re.match(r"blk\.0\.time_mix_a[012]\.", there):  # a value residual that is not read
        yield there.replace("time_mix_a", "time_mix_v"), tensor


def _describe(writer: Any, arch: str, config: Any) -> None:
    """The sizes."""
    writer.add_context_length(ENDLESS)
    writer.add_embedding_length(config.n_embd)
    writer.add_block_count(config.n_layer)
    writer.add_layer_norm_eps(1e-5)
    writer.add_wkv_head_size(config.head_size)
    if arch == "rwkv6":
        mix, decay = config.ranks
        writer.add_rescale_every_n_layers(0)
        writer.add_time_mix_extra_dim(mix)
        writer.add_time_decay_extra_dim(decay)
    else:
        writer.add_decay_lora_rank(config.ranks["w"])
        writer.add_iclr_lora_rank(config.ranks["a"])
        writer.add_value_residual_mix_lora_rank(config.ranks["v"])
        writer.add_gate_lora_rank(config.ranks["g"])
    writer.add_feed_forward_length(config.hidden)
    writer.add_head_count(0)  # asked for, and not used


def _tokenizer(writer: Any, vocabulary: Vocabulary | None, size: int) -> None:
    if vocabulary is None:
        writer.add_tokenizer_model("none")
        writer.add_vocab_size(size)
        return
    spare = range(len(vocabulary.tokens), size)
    writer.add_tokenizer_model(vocabulary.model)
    if vocabulary.pre is not None:
        writer.add_tokenizer_pre(vocabulary.pre)
    writer.add_token_list([*vocabulary.tokens, *(b"[PAD%d]" % i for i in spare)])
    writer.add_token_types([*vocabulary.kinds, *(UNUSED for _ in spare)])
    if vocabulary.merges is not None:
        writer.add_token_merges(vocabulary.merges or [NO_MERGE])
    for name, token in vocabulary.special.items():
        getattr(writer, f"add_{name}_token_id")(token)
