"""Hugging Face directories: the same logits as `transformers`, in both directions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import models
from core.errors import UserError
from models.formats.load import read
from models.formats.save import save
from models.formats.weights import Weights
from tests.registered_models import shaken, some_tokens, spec_of
from tests.transformers_models import LLAMA3, MAKERS, logits_of, theirs


@pytest.mark.parametrize("kind", MAKERS)
def test_logits_are_those_of_transformers(tmp_path: Path, kind: str) -> None:
    model = theirs(kind)
    model.save_pretrained(tmp_path)
    ours: Any = models.load(tmp_path)
    tokens = some_tokens(2, 33)
    expected = logits_of(model, tokens)
    torch.testing.assert_close(logits_of(ours, tokens), expected, rtol=0, atol=2e-5)
    assert expected.abs().max() > 1
    with torch.no_grad():
        state, steps = ours.init_state(2), []
        for i in range(tokens.shape[1]):
            logits, state = ours(tokens[:, i : i + 1], state)
            steps.append(logits)
    torch.testing.assert_close(torch.cat(steps, 1), expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize(
    ("name", "by_hand"),
    [
        ("rwkv4", {"n_ffn": 96}),
        ("transformer", {"n_kv_head": 1, "rope_base": 700.0}),
        ("transformer", {"qkv_bias": True, "output_bias": True, "ffn_bias": True, "head_size": 6}),
        ("transformer", {"rope_factor": 4.0, "rope_length": 8, "rope_low": 0.5}),
        ("transformer", {"window": 7}),
        ("transformer", {"window": 7, "qkv_bias": True}),
        ("gpt", {}),
        ("gpt", {"bias": True, "activation": "gelu_tanh", "n_positions": 30}),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_transformers_reads_what_we_write(
    tmp_path: Path, name: str, by_hand: dict[str, Any], dtype: torch.dtype
) -> None:
    model = shaken(name, **by_hand).eval()
    before = Weights(spec_of(name, **by_hand), model.state_dict()).to(dtype)
    save(before, tmp_path / "hf", "hf")
    official = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf", dtype="auto")
    assert official.dtype == dtype
    tokens = some_tokens(2, 21)
    expected = logits_of(before.model("cpu", torch.float32), tokens)
    official = official.float().eval()
    torch.testing.assert_close(logits_of(official, tokens), expected, rtol=0, atol=2e-5)
    after = read(tmp_path / "hf").tensors
    assert all(torch.equal(after[key], value) for key, value in before.tensors.items())
    assert after.keys() == before.tensors.keys()


@pytest.mark.parametrize("kind", ["rwkv", "llama3", "gpt2"])
def test_sharded_and_pickled_directories_are_the_same_model(tmp_path: Path, kind: str) -> None:
    model = theirs(kind)
    model.save_pretrained(tmp_path / "one")
    model.save_pretrained(tmp_path / "many", max_shard_size="40KB")
    assert len(list((tmp_path / "many").glob("model-*.safetensors"))) > 2
    (tmp_path / "pickled").mkdir()
    (tmp_path / "pickled/config.json").write_bytes((tmp_path / "one/config.json").read_bytes())
    torch.save(model.state_dict(), tmp_path / "pickled/pytorch_model.bin")
    one, many, pickled = (read(tmp_path / name).tensors for name in ("one", "many", "pickled"))
    for name, tensor in one.items():
        assert torch.equal(tensor, many[name]) and torch.equal(tensor, pickled[name])
    next((tmp_path / "many").glob("model-00002*")).unlink()
    with pytest.raises(UserError, match=r"model-00002.*no such file"):
        read(tmp_path / "many")


@pytest.mark.parametrize("kept", ["model.embed_tokens.weight", "lm_head.weight"])
def test_tied_embeddings_stay_one_matrix(tmp_path: Path, kept: str) -> None:
    model = theirs("llama", tie_word_embeddings=True)
    model.save_pretrained(tmp_path / "tied")
    tensors = load_file(tmp_path / "tied/model.safetensors")
    tensors[kept] = tensors.pop("model.embed_tokens.weight")
    save_file(tensors, tmp_path / "tied/model.safetensors")
    loaded: Any = models.load(tmp_path / "tied")
    assert loaded.head.weight is loaded.emb.weight
    tokens = some_tokens(1, 9)
    torch.testing.assert_close(
        logits_of(loaded, tokens), logits_of(model, tokens), rtol=0, atol=2e-5
    )
    save(read(tmp_path / "tied"), tmp_path / "again", "hf")
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "again")
    assert again.lm_head.weight is again.model.embed_tokens.weight
    assert read(tmp_path / "again").spec == read(tmp_path / "tied").spec
    torch.testing.assert_close(
        logits_of(again, tokens), logits_of(model, tokens), rtol=0, atol=2e-5
    )


REFUSED = [
    ("llama", {"rope_scaling": {"rope_type": "linear", "factor": 2.0}}, "rope_type='linear', and"),
    ("llama", {"rope_parameters": {"rope_type": "yarn", "factor": 4.0}}, "rope_type='yarn', and"),
    ("llama", {"attention_bias": 1.5}, r"attention_bias=1\.5, and only False or True is"),
    ("llama", {"mlp_bias": "x", "hidden_act": "gelu"}, "hidden_act='gelu'.*mlp_bias='x'"),
    ("llama", {"head_dim": 16}, r"q_proj\.weight has shape \[48, 48\]; expected \[96, 48\]"),
    ("llama", {"attention_bias": True}, r"q_proj\.bias \[48\] is missing"),
    ("llama", {"quantization_config": {"quant_method": "gptq"}}, r"quantised \(gptq\): give the"),
    ("llama3", {"rope_parameters": {**LLAMA3, "factor": "x"}}, "factor='x'; expected a positive"),
    ("llama3", {"rope_parameters": {**LLAMA3, "low_freq_factor": 5.0}}, r"rope_low=5\.0 positive"),
    ("llama3", {"rope_parameters": {"rope_type": "llama3"}}, "factor=None; expected a positive"),
    ("llama", {"tie_word_embeddings": "false"}, "tie_word_embeddings='false', and only False or"),
    ("llama", {"attention_bias": 1}, "attention_bias=1, and only False or True is"),
    ("qwen2", {"use_sliding_window": "no"}, "use_sliding_window='no', and only False or True"),
    ("llama", {"rope_parameters": {"rope_theta": 1e-300}}, "rope_theta=1e-300; expected a pos"),
    ("llama", {"rms_norm_eps": 0}, "rms_norm_eps=0; expected a positive number from 1e-12"),
    ("llama3", {"rope_parameters": {**LLAMA3, "factor": 1e299}}, r"factor=1e\+299; expected a"),
    ("mistral", {"sliding_window": 10**20}, "of at most 2147483647"),
    ("mistral", {"sliding_window": 0}, "sliding_window=0; expected a positive whole number"),
    ("qwen2", {"layer_types": ["full_attention", "sliding_attention", "full_attention"]},
     "layers that differ are not supported"),
    ("gpt2", {"activation_function": "relu"}, "activation_function='relu', and only 'gelu_new' or"),
    ("gpt2", {"n_layer": 10**6}, "n_layer=1000000 is more than its"),
    ("gpt2", {"bias": False}, r"bias=false and .* is not zero"),
    ("llama", {"num_hidden_layers": "three"}, "num_hidden_layers='three'; expected a positive"),
    ("llama", {"rms_norm_eps": -1}, "rms_norm_eps=-1; expected a positive number"),
    ("llama", {"hidden_size": None}, "hidden_size=None; expected a positive"),
    ("llama", {"num_hidden_layers": 4}, r"model\.layers\.3\.\S+ \[\d+, \d+\] is missing"),
    ("llama", {"num_key_value_heads": 3}, r"k_proj\.weight has shape \[16, 48\]; expected \[24,"),
    ("rwkv", {"attention_hidden_size": 64}, "attention_hidden_size=64, and only 48"),
    ("rwkv", {"vocab_size": 98}, r"rwkv\.embeddings\.weight has shape \[97, 48\]; expected \[98,"),
    ("rwkv", {"num_hidden_layers": 2}, r"rwkv\.blocks\.2\.\S+ is unknown"),
    ("rwkv", {"model_type": "t5"}, "model_type='t5'; supported: rwkv, rwkv5, rwkv6, rwkv7"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "changes", "message"), REFUSED)
def test_what_our_models_do_not_do_is_refused(
    tmp_path: Path, kind: str, changes: dict[str, Any], message: str
) -> None:
    theirs(kind).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, **changes}))
    with pytest.raises(UserError, match=message) as refused:
        models.load(tmp_path)
    assert str(tmp_path) in str(refused.value) and "\n" not in str(refused.value)


def test_a_directory_must_hold_a_model(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"without config\.json"):
        models.load(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(UserError, match="holds a list, not an object"):
        models.load(tmp_path)
    theirs("rwkv").config.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"no model\.safetensors and no pytorch_model\.bin"):
        models.load(tmp_path)
    index = tmp_path / "model.safetensors.index.json"
    for name in ("../secret.safetensors", "a\0.safetensors", "a" * 300, ""):
        index.write_text(json.dumps({"weight_map": {"a": name}}))
        with pytest.raises(UserError, match="not the name of a file beside it") as refused:
            models.load(tmp_path)
        assert "\0" not in str(refused.value) and len(str(refused.value)) < 400


def test_a_lone_file_of_a_directory_leads_to_it(tmp_path: Path) -> None:
    theirs("llama").save_pretrained(tmp_path)
    with pytest.raises(UserError, match="Hugging Face's: give its folder"):
        models.load(tmp_path / "model.safetensors")


def test_a_model_saved_without_its_head_has_the_names_below_it(tmp_path: Path) -> None:
    model = theirs("gpt2")
    model.transformer.save_pretrained(tmp_path)
    tokens = some_tokens(1, 9)
    got = logits_of(models.load(tmp_path), tokens)
    torch.testing.assert_close(got, logits_of(model, tokens), rtol=0, atol=2e-5)


def test_what_no_layout_holds_is_not_written(tmp_path: Path) -> None:
    weights = Weights(spec_of("lstm"), shaken("lstm").state_dict())
    with pytest.raises(UserError, match=r"format=hf is for rwkv4, rwkv5, .*, and this is a lstm"):
        save(weights, tmp_path / "hf", "hf")
    odd = {"window": 7, "ffn_bias": True}
    weights = Weights(spec_of("transformer", **odd), shaken("transformer", **odd).state_dict())
    with pytest.raises(UserError, match="no layout of Hugging Face has"):
        save(weights, tmp_path / "hf", "hf")
    assert not list(tmp_path.iterdir())
