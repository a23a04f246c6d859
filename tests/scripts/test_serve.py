"""scripts/serve.py as its user starts and ends it."""

from __future__ import annotations

import socket
from pathlib import Path

import httpx
import pytest

from data.tokenizers import byte_tokenizer
from models.formats.save import save
from models.formats.weights import Weights
from tests.registered_models import shaken, spec_of
from tests.scripts.commands import run_script, server

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of two models, and a tokenizer of bytes."""
    folder = tmp_path_factory.mktemp("weights")
    byte_tokenizer().save(folder / "tokenizer.json")
    for name in ("rwkv4", "transformer"):
        model = shaken(name, vocab=257)
        save(Weights(spec_of(name, vocab=257), model.state_dict()),
             folder / f"{name}.safetensors", "safetensors")  # fmt: skip
    return folder


@pytest.mark.slow
def test_files_of_weights_are_served_until_ctrl_c(folder: Path) -> None:
    runs = f"run=[{folder}/rwkv4.safetensors,{folder}/transformer.safetensors]"
    with server(runs, f"tokenizer={folder}/tokenizer.json", f"states_dir={folder}") as url:
        models = httpx.get(f"{url}/v1/models").json()["data"]
        assert [model["id"] for model in models] == ["rwkv4", "transformer"]
        for name in ("rwkv4", "transformer"):
            body = {"model": name, "prompt": "a", "max_tokens": 3}
            said = httpx.post(f"{url}/v1/completions", json=body, timeout=60).json()
            assert said["usage"]["completion_tokens"] == 3


def test_mistakes_are_one_message(capfd: Capture, folder: Path, tmp_path: Path) -> None:
    weights = f"run=[{folder}/rwkv4.safetensors]"
    tokenizer = f"tokenizer={folder}/tokenizer.json"
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        cases: dict[tuple[str, ...], str] = {
            ("run=[]",): "give at least one run",
            (weights, "tokenizer=none.json"): "tokenizer='none.json': no such file or folder",
            ("run=[nothing]",): "nothing",
            (weights,): "comes without a tokenizer",
            (weights, tokenizer, f"port={port}"): "cannot listen there (Address already in use)",
            (weights, tokenizer, "host=nowhere.invalid"): "cannot listen there",
            (weights, tokenizer, "port=70000"): "port=70000",
            (weights, tokenizer, "chat=tokenizer"): "chat template",
            (weights, tokenizer, f"key_file={tmp_path}/none"): "none: no such file",
            (f"run=[{folder}/rwkv4.safetensors,{folder}/rwkv4.safetensors]",): "twice",
        }
        for words, message in cases.items():
            words = words if any("port=" in word for word in words) else (*words, "port=0")
            done = run_script(capfd, "serve", *words)
            assert done.status == 2 and message in done.err, (words, done)
            assert done.err.count("error: ") == 1 and "Traceback" not in done.err
