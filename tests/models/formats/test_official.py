"""Official RWKV files: the same logits as the official runtime, and the same bits after a round."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import models
from core.errors import UserError
from models.decoding.generate import generate
from models.decoding.settings import Sampling
from models.formats.load import read
from models.formats.save import save
from models.formats.tensor_files import write_safetensors
from models.formats.weights import Weights
from models.registry import build, model_class
from tests.official_weights import LAYERS, RANKS, VERSIONS, VOCAB, WIDTH, official_weights
from tests.oracle import Answer, Question, ask
from tests.registered_models import shaken, some_tokens, spec_of

Named = dict[str, Tensor]
TOKENS = torch.randint(0, VOCAB, (19,), generator=torch.Generator().manual_seed(3)).tolist()
OLDER = ["time_faaaa", "time_first", "time_faaaa 5.0", "time_first 5.0"]
"""Files of RWKV-5.1 and 5.0, by the name of the bonus."""
SPLITS = [[19], [1] * 19, [7, 1, 11]]


def pth(path: Path, tensors: Named) -> Path:
    torch.save(tensors, path)
    return path


def same_bits(a: Named, b: Named) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].dtype == b[name].dtype
        assert torch.equal(a[name], b[name]), name


def per_head(bonus: str, gate: bool = True) -> Named:
    """RWKV-5.1: a decay and a bonus for each head; `time_first` is the bonus's logarithm.
    Without a gate it is RWKV-5.0."""
    weights = official_weights("rwkv5")
    if not gate:
        weights = without("gate", "time_mix_g")(weights)
    for name in [name for name in weights if "time_decay" in name or "time_faaaa" in name]:
        weights[name.replace("time_faaaa", bonus)] = weights.pop(name)[:, 0].clone()
    return weights


def trained(version: str) -> Any:
    """A fresh model after a few steps on a short text, read again and again."""
    torch.manual_seed(0)
    ours: Any = build(spec_of(version))
    optimizer = torch.optim.AdamW(ours.parameters(), lr=5e-3)
    text = some_tokens(1, 33).repeat(2, 1)
    for _ in range(12):
        loss, _ = ours.loss(text[:, :-1], text[:, 1:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return ours.eval()


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Answer]]:
    """Files of random weights (`rwkv4`, ...) and of trained ones (`rwkv4 trained`, ...), and what
    the official runtime makes of each."""
    folder = tmp_path_factory.mktemp("official")
    questions = {}
    for version in VERSIONS:
        path = pth(folder / f"{version}.pth", official_weights(version))
        questions[version] = Question(str(path), version, TOKENS, SPLITS)
        path = folder / f"{version}-trained.pth"
        save(Weights(spec_of(version), trained(version).state_dict()), path, "official")
        questions[f"{version} trained"] = Question(str(path), version, TOKENS[:5], [], greedy=24)
    for name in OLDER:
        path = pth(folder / f"{name}.pth", per_head(name.removesuffix(" 5.0"), "5.0" not in name))
        questions[name] = Question(str(path), "rwkv5", TOKENS, SPLITS[-1:])
    again = folder / "again.pth"
    save(read(folder / "time_first 5.0.pth"), again, "official")
    questions["written 5.0"] = Question(str(again), "rwkv5", TOKENS, SPLITS[-1:])
    found = ask(list(questions.values()))
    return {
        name: (Path(question.pth), answer)
        for (name, question), answer in zip(questions.items(), found, strict=True)
    }


@pytest.mark.parametrize("version", VERSIONS)
def test_logits_are_those_of_the_official_runtime(
    answers: dict[str, tuple[Path, Answer]], version: str
) -> None:
    path, answer = answers[version]
    model: Any = models.load(path)
    assert not model.training
    with torch.no_grad():
        for split, official in zip(SPLITS, answer.logits, strict=True):
            state, rows, rest = model.init_state(1), [], torch.tensor([TOKENS])
            for length in split:
                logits, state = model(rest[:, :length], state)
                rows.append(logits[0])
                rest = rest[:, length:]
            torch.testing.assert_close(torch.cat(rows), official, rtol=0, atol=5e-5)
    assert answer.logits[0].abs().max() > 1, "a comparison of nothing"


@pytest.mark.parametrize("file", [*OLDER, "written 5.0"])
def test_rwkv_5_0_and_5_1_have_equal_channels(
    answers: dict[str, tuple[Path, Answer]], file: str
) -> None:
    path, answer = answers[file]
    model: Any = models.load(path)
    assert bool(model.config.ungated) is ("5.0" in file)
    with torch.no_grad():
        whole = model(torch.tensor([TOKENS]))[0][0]
        state, rows = model.init_state(1), []
        for token in TOKENS:  # by the native program
            logits, state = model(torch.tensor([[token]]), state)
            rows.append(logits[0, 0])
    for logits in (whole, torch.stack(rows)):
        torch.testing.assert_close(logits, answer.logits[0], rtol=0, atol=5e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_round_of_rwkv_5_0_keeps_every_bit(tmp_path: Path, dtype: torch.dtype) -> None:
    before = {name: tensor.to(dtype) for name, tensor in per_head("time_faaaa", False).items()}
    loaded = read(pth(tmp_path / "a.pth", before))
    assert loaded.spec.config["ungated"] is True
    save(loaded, tmp_path / "b.safetensors", "safetensors")
    save(read(tmp_path / "b.safetensors"), tmp_path / "b.pth", "official")
    same_bits(torch.load(tmp_path / "b.pth"), before)


def test_what_no_tool_knows_of_rwkv_5_0_is_not_written(tmp_path: Path) -> None:
    loaded = read(pth(tmp_path / "a.pth", per_head("time_faaaa", False)))
    with pytest.raises(UserError, match=r"format=hf: no layout here has RWKV-5\.0"):
        save(loaded, tmp_path / "a-hf", "hf")
    loaded.tensors["blocks.1.att.time_decay"][1, 3] += 1  # as a training does
    message = r"the channels of blocks\.1\.att\.time_decay differ: use format=safetensors"
    with pytest.raises(UserError, match=message):
        save(loaded, tmp_path / "b.pth", "official")
    assert [path.name for path in tmp_path.iterdir()] == ["a.pth"]


@pytest.mark.parametrize("version", VERSIONS)
def test_what_was_trained_here_continues_a_text_there(
    answers: dict[str, tuple[Path, Answer]], version: str
) -> None:
    path, answer = answers[f"{version} trained"]
    ours = generate(models.load(path), torch.tensor(TOKENS[:5]), 24, Sampling(0))
    assert list(ours) == answer.greedy
    assert len(set(answer.greedy)) > 3, "the same token again and again shows little"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("version", VERSIONS)
def test_a_round_through_our_file_keeps_every_bit(
    tmp_path: Path, version: str, dtype: torch.dtype
) -> None:
    before = {name: tensor.to(dtype) for name, tensor in official_weights(version).items()}
    first = pth(tmp_path / "first.pth", before)
    save(read(first), tmp_path / "ours.safetensors", "safetensors")
    save(read(tmp_path / "ours.safetensors"), tmp_path / "again.pth", "official")
    same_bits(torch.load(tmp_path / "again.pth"), before)


@pytest.mark.parametrize("version", VERSIONS)
def test_official_names_in_safetensors_are_the_same_model(tmp_path: Path, version: str) -> None:
    tensors = official_weights(version)
    write_safetensors(tmp_path / "a.safetensors", tensors, {"format": "pt"})
    safe, usual = read(tmp_path / "a.safetensors"), read(pth(tmp_path / "a.pth", tensors))
    assert safe.spec == usual.spec
    same_bits(dict(safe.tensors), dict(usual.tensors))
    same_bits(dict(safe.unused), dict(usual.unused))


@pytest.mark.parametrize("layers", [1, LAYERS])
def test_unread_value_residual_of_layer_0_may_be_there_or_not(tmp_path: Path, layers: int) -> None:
    full = official_weights("rwkv7", layers)
    lean = {name: t for name, t in full.items() if not name.startswith("blocks.0.att.v")}
    lean["blocks.0.att.value.weight"] = full["blocks.0.att.value.weight"]
    assert len(full) - len(lean) == 3
    logits = []
    for tensors in (full, lean):
        path = pth(tmp_path / "a.pth", tensors)
        logits.append(models.load(path)(torch.tensor([TOKENS]))[0])
        save(read(path), tmp_path / "b.pth", "official", overwrite=True)
        same_bits(torch.load(tmp_path / "b.pth"), tensors)
    assert torch.equal(*logits)


@pytest.mark.parametrize("version", VERSIONS)
def test_sizes_are_read_from_the_file(tmp_path: Path, version: str) -> None:
    spec = read(pth(tmp_path / "a.pth", official_weights(version))).spec
    config, has_heads = spec.config, hasattr(model_class(spec.target).Config, "head_size")
    assert (config["vocab_size"], config["n_layer"], config["n_embd"]) == (VOCAB, LAYERS, WIDTH)
    assert config.get("head_size") == (64 if has_heads else None)
    ranks = {name.removeprefix("lora_"): size for name, size in config.items() if "lora" in name}
    used = {"rwkv6": ("mix", "decay"), "rwkv7": ("decay", "rate", "value", "gate")}
    assert ranks == {name: RANKS[name] for name in used.get(version, ())}


@pytest.mark.parametrize("version", VERSIONS)
def test_flat_vectors_and_deepspeed_prefixes_are_the_same_model(
    tmp_path: Path, version: str
) -> None:
    plain = official_weights(version)
    other = {
        f"_forward_module.{name}": tensor.squeeze() if tensor.shape[0] == 1 else tensor
        for name, tensor in plain.items()
    }
    again = read(pth(tmp_path / "a.pth", other))
    assert dict(again.tensors).keys() | again.unused.keys() == plain.keys()
    same_bits(dict(again.tensors), {name: plain[name] for name in again.tensors})


def test_the_dtype_is_the_files_or_the_one_asked_for(tmp_path: Path) -> None:
    half = {name: t.bfloat16() for name, t in official_weights("rwkv4").items()}
    path = pth(tmp_path / "a.pth", half)

    def dtypes(**how: Any) -> set[torch.dtype]:
        model: Any = models.load(path, **how)
        return {parameter.dtype for parameter in model.parameters()}

    assert dtypes() == {torch.bfloat16}
    assert dtypes(dtype=torch.float32) == {torch.float32}
    pth(path, half | {"emb.weight": half["emb.weight"].float()})
    assert dtypes() == {torch.float32}, "one dtype that holds them all"


def test_files_of_the_older_torch_format_are_read(tmp_path: Path) -> None:
    before = official_weights("rwkv4")
    torch.save(before, tmp_path / "a.pth", _use_new_zipfile_serialization=False)
    same_bits(dict(read(tmp_path / "a.pth").tensors), before)


def without(*parts: str) -> Callable[[Named], Named]:
    return lambda w: {n: t for n, t in w.items() if not any(part in n for part in parts)}


def adding(name: str, *shape: int) -> Callable[[Named], Named]:
    return lambda w: {**w, name: torch.zeros(shape)}


REFUSED: list[tuple[str, Callable[[Named], Any], str]] = [
    ("rwkv5", without("gate"), r"time_mix_g is unknown"),
    ("rwkv5", without("1.att.gate"), r"blocks\.1\.att\.gate\.weight \[128, 128\] is missing"),
    ("rwkv6", without("gate"), "x060a, b or c"),
    ("rwkv6", adding("blocks.1.att.time_state", 2, 64, 64), r"tuned initial state.*blocks\.1"),
    ("rwkv7", adding("blocks.0.ffn.s_emb.weight", VOCAB, 8), "DeepEmbed"),
    ("rwkv4", adding("head_q.weight", 256, WIDTH), "head_qk"),
    ("rwkv4", adding("blocks.0.ffnPre.key.weight", 4, 4), "pre_ffn"),
    ("rwkv4", adding("blocks.0.tiny_q.weight", 4, 4), "tiny attention"),
    ("rwkv4", without("blocks.1.ln2.bias"), r"blocks\.1\.ln2\.bias \[128\] is missing"),
    ("rwkv4", without("blocks.1."), r"blocks\.1 is missing, and blocks\.2 is there"),
    ("rwkv4", adding("blocks.999999999999.ln1.bias", 128), r"blocks\.3 is missing, and blocks\.9+"),
    ("rwkv4", without("emb"), r"emb\.weight is missing; expected a matrix"),
    ("rwkv4", adding("emb.weight", VOCAB), r"emb\.weight is of shape \[97\]"),
    ("rwkv4", adding("blocks.0.att.extra", 3), r"blocks\.0\.att\.extra is unknown"),
    ("rwkv4", adding("blocks.2.ln1.bias", 127), r"ln1\.bias has shape \[127\]; expected \[128\]"),
    ("rwkv7", adding("blocks.2.att.w1", 128, 16), r"w1 has shape \[128, 16\]; expected \[128, 12"),
    ("rwkv7", adding("blocks.1.att.r_k", 4, 32), r"r_k has shape \[4, 32\]; expected \[2, 64\]"),
    ("rwkv7", adding("blocks.0.att.r_k", 2, 60), "not a multiple of its head size 60"),
    ("rwkv4", lambda w: {n: t.double() for n, t in w.items()}, "is torch.float64; expected float"),
    ("rwkv4", lambda w: w | {"ln_out.bias": torch.full((128,), float("nan"))}, "ln_out.bias holds"),
    ("rwkv4", lambda w: w | {"ln_out.bias": torch.zeros(1).expand(128)}, "not an ordinary dense"),
    ("rwkv4", lambda w: {"rwkv.emb.bias": w["emb.weight"]}, "Hugging Face's: give its folder"),
    ("rwkv4", lambda w: {"a": w["emb.weight"]}, "not an official RWKV file .*its tensors are a"),
    ("rwkv4", lambda w: {}, "its tensors are none"),
    ("rwkv4", lambda w: {"state": w}, "one dict of named tensors"),
]  # fmt: skip


@pytest.mark.parametrize(("version", "change", "message"), REFUSED)
def test_what_is_not_supported_is_named(
    tmp_path: Path, version: str, change: Callable[[Named], Any], message: str
) -> None:
    path = pth(tmp_path / "a.pth", change(official_weights(version)))
    with pytest.raises(UserError, match=message) as refused:
        models.load(path)
    text = str(refused.value)
    assert str(path) in text and "\n" not in text and len(text) < 600


@pytest.mark.parametrize("cut", [0, 1, 100, 5000, -1, -100])
def test_truncated_and_foreign_files_are_refused(tmp_path: Path, cut: int) -> None:
    path = pth(tmp_path / "a.pth", official_weights("rwkv4"))
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(UserError, match=r"a\.pth is damaged or not a file of weights"):
        models.load(path)


@pytest.mark.parametrize(
    "content", [b"hi\n", b"the quick brown fox\n" * 9, b"", b"{}", b"\x80\x04", b'{"a": 1}\n', b"."]
)
def test_what_is_no_file_of_torch_is_told_in_plain_words(tmp_path: Path, content: bytes) -> None:
    """Not with what the unpickler stumbled over: `(105)`, `(pop from empty list)`."""
    (tmp_path / "a.pth").write_bytes(content)
    with pytest.raises(
        UserError, match=r"a\.pth is damaged or not .* \(not what torch\.save writes"
    ):
        models.load(tmp_path / "a.pth")


def test_noise_is_refused_whatever_it_looks_like(tmp_path: Path) -> None:
    draw, path = random.Random(0), tmp_path / "a.pth"
    sound = pth(path, {"emb.weight": torch.zeros(3, 4), "x": torch.ones(2)}).read_bytes()
    for _ in range(200):
        damaged = bytearray(sound)
        for _ in range(draw.randrange(1, 9)):
            damaged[draw.randrange(len(damaged))] = draw.randrange(256)
        for content in (draw.randbytes(draw.randrange(3000)), bytes(damaged)):
            path.write_bytes(content)
            with pytest.raises(UserError, match=r"a\.pth"):
                models.load(path)


def test_a_value_beyond_float16_is_named(tmp_path: Path) -> None:
    weights = official_weights("rwkv4")
    weights["blocks.1.ffn.value.weight"][3, 4] = -7e4
    loaded = read(pth(tmp_path / "a.pth", weights))
    with pytest.raises(UserError, match=r"blocks\.1\.ffn\.value\.weight holds 70000.*65504"):
        loaded.to(torch.float16)
    assert loaded.to(torch.bfloat16).tensors["emb.weight"].dtype == torch.bfloat16


def test_large_values_are_values(tmp_path: Path) -> None:
    weights = official_weights("rwkv4")
    weights["ln_out.bias"] = torch.full((WIDTH,), 3e38)  # whose sum is infinite
    assert read(pth(tmp_path / "a.pth", weights)).tensors["ln_out.bias"].max() > 2e38


def test_only_rwkv_becomes_an_official_file(tmp_path: Path) -> None:
    spec = spec_of("gpt")
    with pytest.raises(UserError, match=r"format=official is for rwkv4.* this is a gpt"):
        save(Weights(spec, shaken("gpt").state_dict()), tmp_path / "a.pth", "official")
    assert not list(tmp_path.iterdir())


WRAPPED: dict[str, Callable[[Named], Any]] = {
    "compiled": lambda w: {f"_orig_mod.{n}": t for n, t in w.items()},
    "compiled by block": lambda w: {n.replace(".att.", "._orig_mod.att."): t for n, t in w.items()},
    "parallel": lambda w: {f"module.{n}": t for n, t in w.items()},
    "both": lambda w: {f"module._orig_mod.{n}": t for n, t in w.items()},
    "an attribute": lambda w: {f"model.{n}": t for n, t in w.items()},
    "of any name": lambda w: {f"_forward_module.net.lm.{n}": t for n, t in w.items()},
    "sharded": lambda w: {f"_fsdp_wrapped_module.{n}": t for n, t in w.items()},
    "Lightning's": lambda w: {
        "state_dict": {f"model.{n}": t for n, t in w.items()},
        "global_step": 40,
        "optimizer_states": [{}],
    },
    "nanoGPT's": lambda w: {"model": WRAPPED["compiled"](w), "optimizer": {}, "iter_num": 3},
    "DeepSpeed's": lambda w: {"module": w, "ds_version": "0.15", "dtype": "torch.bfloat16"},
    "a tutorial's": lambda w: {"epoch": 1, "model_state_dict": w, "optimizer_state_dict": {}},
    "twice": lambda w: {"model": {"state_dict": w}},
}


@pytest.mark.parametrize("wrapper", WRAPPED)
def test_weights_inside_wrappers_are_those_weights(tmp_path: Path, wrapper: str) -> None:
    plain = official_weights("rwkv4")
    for name in ("a.pth", "a.ckpt"):  # another program's .ckpt has no manifest
        found = read(pth(tmp_path / name, WRAPPED[wrapper](plain)))
        same_bits(dict(found.tensors), {name: plain[name] for name in found.tensors})
        assert len(found.tensors) + len(found.unused) == len(plain)


MIXED: list[tuple[Callable[[Named], Any], str]] = [
    (lambda w: {"model": w, "state_dict": w}, "several models .state_dict, model."),
    (lambda w: w | {f"ema.{n}": t for n, t in w.items()}, "several models .*ema.emb.weight"),
    (lambda w: w | {"_orig_mod.head.weight": w["head.weight"]}, "differ only in their wrappers"),
    (lambda w: w | {"_strategy": "cpu fp32"}, "converted for the package rwkv .strategy cpu fp32"),
    (lambda w: {"epoch": 3, "weights": w}, "epoch is a int .its keys are epoch; weights"),
]


@pytest.mark.parametrize(("change", "message"), MIXED)
def test_more_than_one_model_is_refused(
    tmp_path: Path, change: Callable[[Named], Any], message: str
) -> None:
    with pytest.raises(UserError, match=message) as refused:
        read(pth(tmp_path / "a.pth", change(official_weights("rwkv4"))))
    assert "\n" not in str(refused.value)
