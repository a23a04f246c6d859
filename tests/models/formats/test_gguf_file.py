"""GGUF files, read back by llama.cpp's own package: names, shapes, values, metadata."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch

from core.errors import UserError
from data import tokenizers
from data.companions import llama_cpp_vocabulary
from data.rwkv_world_tokenizer import WorldTokenizer
from models.formats.gguf_file import Vocabulary
from models.formats.official import from_tensors
from models.formats.save import Beside, save
from models.formats.weights import Weights
from tests.official_weights import HEAD, LAYERS, RANKS, VOCAB, WIDTH, official_weights
from tests.registered_models import shaken, spec_of

C, H = WIDTH, WIDTH // HEAD
ARCHITECTURES = {"rwkv6": gguf.MODEL_ARCH.RWKV6, "rwkv7": gguf.MODEL_ARCH.RWKV7}
UNUSED = {gguf.MODEL_TENSOR[f"TIME_MIX_LERP_{letter}"] for letter in "KVRGW"}
"""Of RWKV-6: what older files had in the place of the fused one."""
EXPECTED: dict[str, dict[str, Any]] = {
    "rwkv6": {
        "time_mix_extra_dim": RANKS["mix"], "time_decay_extra_dim": RANKS["decay"],
        "rescale_every_n_layers": 0, "feed_forward_length": 3 * C,
    },
    "rwkv7": {
        "attention.decay_lora_rank": RANKS["decay"], "attention.iclr_lora_rank": RANKS["rate"],
        "attention.value_residual_mix_lora_rank": RANKS["value"],
        "attention.gate_lora_rank": RANKS["gate"], "feed_forward_length": 4 * C,
    },
}  # fmt: skip
BYTES = [bytes([byte]) for byte in range(256)]


def written(version: str, path: Path, dtype: torch.dtype = torch.float32, **beside: Any) -> Any:
    weights = from_tensors(Path("a.pth"), official_weights(version)).to(dtype)
    save(weights, path, "gguf", beside=Beside(**beside))
    return gguf.GGUFReader(path)


def value_of(reader: Any, key: str) -> Any:
    return reader.fields[key].contents()


@pytest.mark.parametrize("version", ARCHITECTURES)
def test_names_are_those_of_the_architecture(tmp_path: Path, version: str) -> None:
    reader = written(version, tmp_path / "a.gguf")
    patterns = {
        gguf.TENSOR_NAMES[kind]
        for kind in gguf.MODEL_TENSORS[ARCHITECTURES[version]]
        if version != "rwkv6" or kind not in UNUSED
    }
    stems = {pattern.format(bid=layer) for pattern in patterns for layer in range(LAYERS)}
    found = [tensor.name for tensor in reader.tensors]
    assert {name.rpartition(".")[0] for name in found} == stems
    norms = [stem for stem in stems if stem.endswith(("_norm", "_norm_2", "_ln"))]
    assert sorted(found) == sorted(
        [f"{stem}.weight" for stem in stems] + [f"{stem}.bias" for stem in norms]
    )
    told = {key.removeprefix(f"{version}."): value_of(reader, key) for key in reader.fields
            if key.startswith(f"{version}.")}  # fmt: skip
    assert told == {
        **EXPECTED[version], "context_length": 1 << 20, "embedding_length": C,
        "block_count": LAYERS, "attention.layer_norm_epsilon": pytest.approx(1e-5),
        "wkv.head_size": HEAD, "attention.head_count": 0, "vocab_size": VOCAB,
    }  # fmt: skip
    assert value_of(reader, "general.architecture") == version
    assert value_of(reader, "general.file_type") == 0


def test_values_of_rwkv_6(tmp_path: Path) -> None:
    ours = official_weights("rwkv6")
    theirs = {tensor.name: tensor for tensor in written("rwkv6", tmp_path / "a.gguf").tensors}
    att = {name: ours[f"blocks.1.att.{name}"] for name in (
        "time_maa_w1", "time_maa_w2", "time_decay", "time_decay_w1", "time_decay_w2",
        "time_faaaa", "time_maa_x", "key.weight")}  # fmt: skip
    shares = [ours[f"blocks.1.att.time_maa_{letter}"] for letter in "wkvrg"]
    expected = {
        "time_mix_w1": (att["time_maa_w1"].T, [C, 5 * RANKS["mix"]]),
        "time_mix_w2": (att["time_maa_w2"].permute(0, 2, 1), [RANKS["mix"], C, 5]),
        "time_mix_decay": (att["time_decay"].flatten(), [C]),
        "time_mix_decay_w1": (att["time_decay_w1"].T, [C, RANKS["decay"]]),
        "time_mix_decay_w2": (att["time_decay_w2"].T, [RANKS["decay"], C]),
        "time_mix_first": (att["time_faaaa"], [HEAD, H]),
        "time_mix_lerp_x": (att["time_maa_x"].flatten(), [C]),
        "time_mix_lerp_fused": (torch.stack(shares), [C, 1, 1, 5]),
        "time_mix_key": (att["key.weight"], [C, C]),
        "channel_mix_lerp_k": (ours["blocks.1.ffn.time_maa_k"].flatten(), [C]),
        "channel_mix_value": (ours["blocks.1.ffn.value.weight"], [3 * C, C]),
    }
    for name, (values, shape) in expected.items():
        found = theirs[f"blk.1.{name}.weight"]
        assert found.shape.tolist() == shape, name
        assert np.array_equal(found.data.reshape(values.shape), values.numpy()), name


def test_values_of_rwkv_7(tmp_path: Path) -> None:
    ours = official_weights("rwkv7")
    theirs = {tensor.name: tensor for tensor in written("rwkv7", tmp_path / "a.gguf").tensors}
    att = "blocks.1.att."
    expected = {
        "time_mix_lerp_fused": (torch.stack([ours[f"{att}x_{x}"] for x in "rwkvag"]), [C, 1, 1, 6]),
        "time_mix_w0": (ours[f"{att}w0"].flatten(), [C]),
        "time_mix_v1": (ours[f"{att}v1"].T, [C, RANKS["value"]]),
        "time_mix_g2": (ours[f"{att}g2"].T, [RANKS["gate"], C]),
        "time_mix_r_k": (ours[f"{att}r_k"].flatten(), [C]),
        "time_mix_k_a": (ours[f"{att}k_a"].flatten(), [C]),
        "time_mix_ln": (ours[f"{att}ln_x.weight"], [C]),
        "attn_norm_2": (ours["blocks.1.ln2.weight"], [C]),
        "channel_mix_lerp_k": (ours["blocks.1.ffn.x_k"].flatten(), [C]),
    }
    for name, (values, shape) in expected.items():
        found = theirs[f"blk.1.{name}.weight"]
        assert found.shape.tolist() == shape, name
        assert np.array_equal(found.data.reshape(values.shape), values.numpy()), name
    dummy = theirs["blk.0.time_mix_v1.weight"]  # not read, and of the rate's rank
    assert dummy.shape.tolist() == [C, RANKS["rate"]]
    assert np.array_equal(theirs["token_embd_norm.bias"].data, ours["blocks.0.ln0.bias"].numpy())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_matrices_have_the_precision_of_the_weights(tmp_path: Path, dtype: torch.dtype) -> None:
    reader = written("rwkv7", tmp_path / "a.gguf", dtype)
    types = {tensor.name: tensor.tensor_type.name for tensor in reader.tensors}
    narrow = {torch.float16: "F16", torch.bfloat16: "BF16"}[dtype]
    assert (types["token_embd.weight"], types["blk.1.time_mix_a1.weight"]) == (narrow, narrow)
    for name in ("time_mix_w1", "time_mix_lerp_fused", "attn_norm", "time_mix_k_k"):
        assert types[f"blk.1.{name}.weight"] == "F32"
    found = next(tensor for tensor in reader.tensors if tensor.name == "output.weight")
    values = gguf.quants.dequantize(found.data, found.tensor_type)
    assert np.array_equal(
        values, official_weights("rwkv7")["head.weight"].to(dtype).float().numpy()
    )


def test_rwkv_worlds_vocabulary(tmp_path: Path) -> None:
    world = WorldTokenizer([*BYTES[:90], b"\n\n"])
    vocabulary = Vocabulary(**llama_cpp_vocabulary(world))
    reader = written("rwkv6", tmp_path / "a.gguf", vocabulary=vocabulary)
    tokens = value_of(reader, "tokenizer.ggml.tokens")
    assert value_of(reader, "tokenizer.ggml.model") == "rwkv"
    assert tokens[:3] == ["<s>", r"\x00", r"\x01"] and tokens[91:93] == [r"\n\n", "[PAD92]"]
    assert len(tokens) == VOCAB
    kinds = value_of(reader, "tokenizer.ggml.token_type")
    assert (kinds[0], kinds[1], kinds[-1]) == (3, 1, 5)
    ids = [value_of(reader, f"tokenizer.ggml.{name}_token_id") for name in ("bos", "eos", "eot")]
    assert ids == [0, 0, 91]


def test_a_bpe_and_what_llama_cpp_does_not_have(tmp_path: Path) -> None:
    bpe = tokenizers.train_bpe(["alpha beta " * 20], 262)
    fields = llama_cpp_vocabulary(bpe)
    assert (fields["model"], fields["pre"], fields["kinds"][0]) == ("gpt2", "gpt-2", 3)
    assert len(fields["tokens"]) == 262 and len(fields["merges"]) == 5
    assert fields["special"] == {"bos": 0, "eos": 0}
    assert llama_cpp_vocabulary(tokenizers.byte_tokenizer())["merges"] == []
    with pytest.raises(UserError, match="format=gguf holds RWKV World's vocabulary or"):
        llama_cpp_vocabulary(tokenizers.char_tokenizer("abc"))


def test_other_models_are_not_written(tmp_path: Path) -> None:
    weights = Weights(spec_of("transformer"), shaken("transformer").state_dict())
    with pytest.raises(
        UserError, match="format=gguf is for rwkv6, rwkv7, and this is a transformer"
    ):
        save(weights, tmp_path / "a.gguf", "gguf")
    assert not list(tmp_path.iterdir())
