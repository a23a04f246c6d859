"""From a run to the files of others and back, with real commands."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers

from data import tokenizers
from models.formats.load import read
from tests.data.test_sentencepiece_tokenizer import KINDS, trained
from tests.official_weights import official_weights
from tests.scripts.commands import Done, run_script
from tests.training.runs import run, run_conf, write_corpus

Capture = pytest.CaptureFixture[str]
PROMPT = "prompt=alpha ("


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of three trained runs, `rwkv4`, `rwkv7` and `transformer`."""
    folder = tmp_path_factory.mktemp("runs")
    corpus = write_corpus(folder)
    for name in ("rwkv4", "rwkv7", "transformer"):
        conf = run_conf(folder, corpus, name=name, data__tokenizer="bpe", data__vocab_size=300)
        run(conf, name)
    return folder


def convert(capfd: Capture, runs: Path, *words: str) -> Done:
    return run_script(capfd, "convert", *words, f"runs_dir={runs}")


def generate(capfd: Capture, runs: Path, *words: str) -> Done:
    return run_script(
        capfd, "generate", PROMPT, "tokens=12", "temperature=0", f"runs_dir={runs}", *words
    )


def test_every_format_of_a_run_continues_a_text_alike(
    capfd: Capture, tmp_path: Path, runs: Path
) -> None:
    expected = generate(capfd, runs, "run=rwkv4").out
    assert expected.startswith("alpha (") and len(expected) > 12
    tokenizer = f"tokenizer={runs / 'rwkv4' / 'tokenizer.json'}"
    for format, name in (("official", "a.pth"), ("safetensors", "a.safetensors"), ("hf", "a")):
        target = tmp_path / name
        done = convert(capfd, runs, "source=rwkv4", f"target={target}", f"format={format}")
        assert done.status == 0, done.err
        assert done.out.startswith(f"{target}: rwkv4, ") and "float32" in done.out
        asked = generate(capfd, runs, f"run={target}", *([] if format == "hf" else [tokenizer]))
        assert asked.status == 0, asked.err
        assert asked.out == expected


def test_a_transformer_and_its_tokenizer_in_hugging_faces_hands(
    capfd: Capture, tmp_path: Path, runs: Path
) -> None:
    expected = generate(capfd, runs, "run=transformer").out
    folder = tmp_path / "hf"
    done = convert(capfd, runs, "source=transformer", f"target={folder}", "format=hf")
    assert done.status == 0, done.err
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    ids = tokenizer("alpha (", return_tensors="pt")["input_ids"]
    assert ids[0].tolist() == tokenizers.load(folder / "tokenizer.json").encode("alpha (")
    out = model.generate(ids, max_new_tokens=12, do_sample=False, use_cache=True)
    assert tokenizer.decode(out[0]) == expected.removesuffix("\n")
    assert tokenizer.eos_token_id == model.config.eos_token_id == 0  # lm-eval begins texts with it


def test_a_tokenizer_can_be_put_beside_weights(capfd: Capture, tmp_path: Path, runs: Path) -> None:
    torch.save(official_weights("rwkv4"), tmp_path / "a.pth")
    words = [f"source={tmp_path / 'a.pth'}", f"target={tmp_path / 'hf'}"]
    tokenizers.byte_tokenizer().save(tmp_path / "bytes.json")
    given = f"tokenizer={tmp_path / 'bytes.json'}"
    done = convert(capfd, runs, *words, given, "format=hf")
    assert done.status == 2 and "has 257 ids and" in done.err and not (tmp_path / "hf").exists()
    tokenizers.char_tokenizer("abc").save(tmp_path / "bytes.json")
    assert convert(capfd, runs, *words, given, "format=hf").status == 0
    assert transformers.AutoTokenizer.from_pretrained(tmp_path / "hf").encode("cab") == [2, 0, 1]
    words[1] = f"target={tmp_path / 'b.pth'}"
    done = convert(capfd, runs, *words, given, "format=official")
    assert done.status == 2 and "holds no tokenizer" in done.err


def test_official_weights_in_bfloat16_pass_through_every_format(
    capfd: Capture, tmp_path: Path
) -> None:
    before = {name: t.bfloat16() for name, t in official_weights("rwkv4").items()}
    torch.save(before, tmp_path / "0.pth")
    steps = [("0.pth", "1", "hf"), ("1", "2.safetensors", "safetensors"),
             ("2.safetensors", "3.pth", "official")]  # fmt: skip
    for source, target, format in steps:
        words = [f"source={tmp_path / source}", f"target={tmp_path / target}"]
        done = run_script(capfd, "convert", *words, f"format={format}")
        assert done.status == 0, done.err
        assert "bfloat16" in done.out
    after = torch.load(tmp_path / "3.pth")
    assert after.keys() == before.keys()
    for name, tensor in before.items():
        assert after[name].dtype == torch.bfloat16 and torch.equal(after[name], tensor)

    words = [f"source={tmp_path / '0.pth'}", "format=official", f"target={tmp_path / '4.pth'}"]
    assert run_script(capfd, "convert", *words, "dtype=float16").status == 0
    assert read(tmp_path / "4.pth").tensors["emb.weight"].dtype == torch.float16


def test_generating_in_bfloat16_and_float32(capfd: Capture, tmp_path: Path, runs: Path) -> None:
    words = ["source=rwkv4", f"target={tmp_path / 'a.pth'}", "format=official", "dtype=bfloat16"]
    assert convert(capfd, runs, *words).status == 0
    ask = [f"run={tmp_path / 'a.pth'}", f"tokenizer={runs / 'rwkv4' / 'tokenizer.json'}"]
    for dtype in ("auto", "float32"):
        done = generate(capfd, runs, *ask, f"dtype={dtype}")
        assert done.status == 0 and len(done.out) > 12, done.err


@pytest.mark.slow
def test_what_a_fine_tuning_has_learned_in_every_format(
    capfd: Capture, tmp_path: Path, runs: Path
) -> None:
    """Each file continues a text as the run does."""
    for mode in ("lora", "state"):
        source = str(runs / "rwkv7")
        conf = run_conf(
            runs, runs / "corpus.txt", name=mode, data__tokenizer="bpe", data__vocab_size=300,
            init_from=source, tune__mode=mode, optim__lr=0.3, optim__warmup_steps=0,
        )  # fmt: skip
        run(conf, "rwkv7")
    tokenizer = f"tokenizer={runs / 'rwkv7' / 'tokenizer.json'}"
    cases = [("lora", "official", "a.pth"), ("lora", "adapter", "a.safetensors"),
             ("state", "safetensors", "b.safetensors")]  # fmt: skip
    for mode, format, name in cases:
        expected, target = generate(capfd, runs, f"run={mode}").out, tmp_path / name
        done = convert(capfd, runs, f"source={mode}", f"target={target}", f"format={format}")
        assert done.status == 0, done.err
        asked = generate(capfd, runs, f"run={target}", tokenizer)
        assert asked.out == expected, asked.err
    target = tmp_path / "states.pth"
    words = ["source=state", f"target={target}", "format=state"]
    assert "4,096 parameters" in convert(capfd, runs, *words).out
    assert [*torch.load(target)] == ["blocks.0.att.time_state", "blocks.1.att.time_state"]
    words = ["source=state", f"target={tmp_path / 'c.pth'}", "format=official"]
    done = convert(capfd, runs, *words)
    assert done.status == 2 and "format=state writes the state alone" in done.err


def test_refusals_are_one_line_and_leave_no_file(
    capfd: Capture, tmp_path: Path, runs: Path
) -> None:
    torch.save(official_weights("rwkv4"), tmp_path / "a.pth")
    torch.save({"x": torch.zeros(3)}, tmp_path / "foreign.pth")
    before = sorted(tmp_path.iterdir())
    a, b = f"source={tmp_path / 'a.pth'}", f"target={tmp_path / 'b.pth'}"
    cases = [
        (["source=nothing", b, "format=official"], "source='nothing': no such run"),
        ([a, b, "format=hff"], "format"),
        ([a, f"target={tmp_path / 'b.bin'}", "format=official"], "a name that ends in .pth"),
        ([a, f"target={tmp_path / 'a.pth'}", "format=official"], "exists: choose another"),
        ([a, f"target={tmp_path / 'a.pth'}", "format=hf", "overwrite=true"], "is a file"),
        (["source=transformer", b, "format=official"], "and this is a transformer"),
        ([f"source={tmp_path / 'foreign.pth'}", b, "format=official"], "not an official RWKV"),
        ([a, b], "format has no value"),
    ]
    for words, message in cases:
        done = convert(capfd, runs, *words)
        assert done.status == 2 and message in done.err, done.err
        assert done.err.count("\n") == 1 and done.out == ""
    assert sorted(tmp_path.iterdir()) == before
    torch.load(tmp_path / "a.pth")

    ask = f"run={tmp_path / 'a.pth'}"
    done = generate(capfd, runs, ask)
    assert done.status == 2 and "add tokenizer=PATH" in done.err and done.err.count("\n") == 1
    done = generate(capfd, runs, ask, f"tokenizer={runs / 'rwkv4' / 'tokenizer.json'}")
    assert done.status == 2 and "278 ids and" in done.err and "only 97" in done.err
    done = generate(capfd, runs, ask, "tokenizer=none.json")
    assert done.status == 2 and "no such file" in done.err


def test_a_model_of_sentencepiece_beside_weights(
    capfd: Capture, tmp_path: Path, runs: Path
) -> None:
    """The folder has a tokenizer with its ids, or says that there is none."""
    text = " The  dog</s> a"
    for name, more in (("llama", {}), ("suffix", {"treat_whitespace_as_suffix": True})):
        path = tmp_path / f"{name}.model"
        path.write_bytes(trained(88, **{**KINDS["llama"], "byte_fallback": False, **more}))
        torch.save(official_weights("rwkv4"), tmp_path / "a.pth")
        folder = tmp_path / name
        words = [f"source={tmp_path / 'a.pth'}", f"target={folder}", f"tokenizer={path}"]
        done = convert(capfd, runs, *words, "format=hf")
        assert done.status == 0, done.err
        ours = tokenizers.load(path)
        assert tokenizers.load(folder).fingerprint == ours.fingerprint
        assert ("transformers has no tokenizer" in done.out) == (name == "suffix")
        if name == "llama":
            theirs = transformers.AutoTokenizer.from_pretrained(folder)
            assert [theirs.encode(text)] == ours.encode_many([text], whole=True)
