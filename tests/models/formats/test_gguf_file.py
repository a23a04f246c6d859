"""GGUF files, read back by llama.cpp's own package: names, shapes, values, metadata.

Where `llama-cpp-python` is installed (no extra has it: it is compiled for many minutes), llama.cpp
itself also runs them.
"""

from __future__ import annotations

from functools import cache
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
from models.formats.gguf_file import NO_MERGE, Vocabulary
from models.formats.official import from_tensors
from models.formats.save import Beside, save
from models.formats.weights import Weights
from models.registry import ModelSpec, build
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
TOKENS = torch.randint(0, VOCAB, (19,), generator=torch.Generator().manual_seed(3)).tolist()
BYTES = [bytes([byte]) for byte in range(256)]


def written(version: str, path: Path, dtype: torch.dtype = torch.float32, **beside: Any) -> Any:
    weights = from_tensors(Path("a.pth"), official_weights(version)).to(dtype)
    save(weights, path, "gguf", beside=Beside(**beside))
    return gguf.GGUFReader(path)


def shaken_of(spec: ModelSpec) -> dict[str, torch.Tensor]:
    """Tensors of the model, none of them zero."""
    torch.manual_seed(0)
    model: Any = build(spec)
    return {name: each + 0.1 * torch.randn_like(each) for name, each in model.state_dict().items()}


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


def test_a_vocabulary_without_merges_has_one_that_is_never_applied(tmp_path: Path) -> None:
    plain = Vocabulary(**llama_cpp_vocabulary(tokenizers.byte_tokenizer()))
    spec = spec_of("rwkv6", vocab=257)
    save(
        Weights(spec, shaken_of(spec)), tmp_path / "a.gguf", "gguf", beside=Beside({}, None, plain)
    )
    merges = value_of(gguf.GGUFReader(tmp_path / "a.gguf"), "tokenizer.ggml.merges")
    assert merges == [NO_MERGE] and len(NO_MERGE.split(" ")[0]) > 1


def test_heads_that_llama_cpp_cannot_run_are_not_written(tmp_path: Path) -> None:
    for head_size in (32, 96):
        spec = spec_of("rwkv7", n_embd=192, head_size=head_size)
        with pytest.raises(UserError, match=rf"heads of 64 channels .* these have {head_size}:"):
            save(Weights(spec, shaken_of(spec)), tmp_path / "a.gguf", "gguf")
    assert not list(tmp_path.iterdir())


def test_other_models_are_not_written(tmp_path: Path) -> None:
    weights = Weights(spec_of("transformer"), shaken("transformer").state_dict())
    with pytest.raises(
        UserError, match="format=gguf is for rwkv6, rwkv7, and this is a transformer"
    ):
        save(weights, tmp_path / "a.gguf", "gguf")
    assert not list(tmp_path.iterdir())


@cache
def _quiet(lib: Any) -> Any:
    """A log that keeps nothing; llama.cpp calls it as long as the process lives."""
    return lib.llama_log_callback(lambda *_: None)


class Runtime:
    """llama.cpp with one file, by its C functions."""

    def __init__(self, path: Path) -> None:
        self.lib: Any = pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
        self.lib.llama_backend_init()
        self.lib.llama_log_set(_quiet(self.lib), None)
        options = self.lib.llama_model_default_params()
        self.model = self.lib.llama_model_load_from_file(str(path).encode(), options)
        assert self.model, "llama.cpp refuses the file"
        self.vocab = self.lib.llama_model_get_vocab(self.model)

    def logits(self, tokens: list[int], split: list[int]) -> torch.Tensor:
        """`[T, V]`, the tokens read in pieces of these lengths."""
        options = self.lib.llama_context_default_params()
        options.n_ctx, options.n_batch, options.n_ubatch = 256, 64, 64
        options.n_threads = options.n_threads_batch = 1
        context = self.lib.llama_init_from_model(self.model, options)
        size, rows, at = self.lib.llama_vocab_n_tokens(self.vocab), [], 0
        for length in split:
            batch = self.lib.llama_batch_init(length, 0, 1)
            batch.n_tokens = length
            for i in range(length):
                batch.token[i], batch.pos[i], batch.n_seq_id[i] = tokens[at + i], at + i, 1
                batch.seq_id[i][0], batch.logits[i] = 0, 1
            assert self.lib.llama_decode(context, batch) == 0
            found = np.ctypeslib.as_array(self.lib.llama_get_logits(context), (length, size))
            rows.append(torch.tensor(found))
            self.lib.llama_batch_free(batch)
            at += length
        self.lib.llama_free(context)
        return torch.cat(rows)

    def encode(self, text: str) -> list[int]:
        data, most = text.encode(), 1000
        ids = (self.lib.llama_token * most)()
        count = self.lib.llama_tokenize(self.vocab, data, len(data), ids, most, False, False)
        return list(ids[:count])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("version", ARCHITECTURES)
def test_llama_cpp_gives_our_logits(tmp_path: Path, version: str, dtype: torch.dtype) -> None:
    """It rounds what matrices in half precision are multiplied with, which we do not."""
    for layers in (1, LAYERS):
        weights = from_tensors(Path("a.pth"), official_weights(version, layers)).to(dtype)
        save(weights, tmp_path / "a.gguf", "gguf", overwrite=True)
        model: Any = weights.model("cpu", torch.float32)
        with torch.no_grad():
            ours = model(torch.tensor([TOKENS]))[0][0]
        runtime = Runtime(tmp_path / "a.gguf")
        most = {torch.float32: 5e-5, torch.float16: 1e-2, torch.bfloat16: 1e-1}[dtype]
        for split in ([19], [1] * 19, [7, 1, 11]):
            theirs = runtime.logits(TOKENS, split)
            torch.testing.assert_close(theirs, ours, rtol=0, atol=most)
        assert ours.abs().max() > 1, "a comparison of nothing"


def test_llama_cpp_runs_rwkv_6_with_any_heads(tmp_path: Path) -> None:
    model = shaken("rwkv6").eval()
    assert model.config.head_size == 32
    save(Weights(spec_of("rwkv6"), model.state_dict()), tmp_path / "a.gguf", "gguf")
    with torch.no_grad():
        ours = model(torch.tensor([TOKENS]))[0][0]
    theirs = Runtime(tmp_path / "a.gguf").logits(TOKENS, [19])
    torch.testing.assert_close(theirs, ours, rtol=0, atol=5e-5)


@pytest.mark.parametrize("kind", ["world", "bpe", "bytes"])
def test_llama_cpp_cuts_a_text_as_we_do(tmp_path: Path, kind: str) -> None:
    text = "Hello, world!\n\n\tdef f(x):\r\n  世界 αβγ 12345   end \x7f e\u0301 <|endoftext|>"
    made: dict[str, Any] = {
        "world": WorldTokenizer([*BYTES, b"\n\n", b" w", b"end", b" wor", b"ld!", "世".encode()]),
        "bpe": tokenizers.train_bpe([text * 20], 300),
        "bytes": tokenizers.byte_tokenizer(),
    }
    tokenizer = made[kind]
    spec = spec_of("rwkv6", vocab=max(tokenizer.vocab_size, 270))
    beside = Beside({}, None, Vocabulary(**llama_cpp_vocabulary(tokenizer)))
    save(Weights(spec, shaken_of(spec)), tmp_path / "a.gguf", "gguf", beside=beside)
    runtime = Runtime(tmp_path / "a.gguf")
    ours = list(tokenizer.encode(text))
    assert runtime.encode(text) == ours and len(ours) > 20
    assert runtime.lib.llama_vocab_eos(runtime.vocab) == tokenizer.end_of_text
