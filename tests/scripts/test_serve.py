"""scripts/serve.py as its user starts and ends it."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path

import httpx
import openai
import pytest

from tests.scripts.commands import run_script, server, serving, write_weights

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of two models, and a tokenizer of bytes."""
    return write_weights(tmp_path_factory.mktemp("weights"), "rwkv4", "transformer")


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


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)]
)
def test_a_signal_for_the_whole_group_loses_no_answer(
    capfd: Capture, folder: Path, number: signal.Signals
) -> None:
    """As a terminal sends Ctrl-C, and a service manager SIGTERM, to the workers too."""
    words = (f"run=[{folder}/rwkv4.safetensors]", f"tokenizer={folder}/tokenizer.json",
             f"states_dir={folder}", "drain_seconds=0")  # fmt: skip
    with serving(*words) as (url, process):
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="x", max_retries=0, timeout=120)

        def ask() -> openai.Stream[openai.types.Completion]:
            return client.completions.create(
                model="rwkv4", prompt="a", max_tokens=2000, temperature=0, stream=True
            )

        expected = "".join(part.choices[0].text for part in ask())
        streams = [ask() for _ in range(3)]
        begun = [next(stream).choices[0].text for stream in streams]
        os.killpg(process.pid, number)
        for text, stream in zip(begun, streams, strict=True):
            assert text + "".join(part.choices[0].text for part in stream) == expected
        client.close()
        assert process.wait(120) in (-number, 128 + number)
    assert "takes over" not in capfd.readouterr().err  # no worker had to be replaced


def test_a_route_and_keys_are_given_on_the_command_line(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "keys.json").write_text('{"ann": {"key": "k", "tokens": 20}}')
    words = (
        f"run=[{folder}/rwkv4.safetensors,{folder}/transformer.safetensors]",
        "routes={best: [transformer, rwkv4]}", f"keys_file={tmp_path}/keys.json",
        f"accounts_file={tmp_path}/accounts.json", "price_per_hour=3.6", "currency=EUR",
        f"tokenizer={folder}/tokenizer.json", f"states_dir={folder}",
    )  # fmt: skip
    used = 0
    for _ in range(2):  # the second time after a restart
        with server(*words) as url:
            client = openai.OpenAI(base_url=f"{url}/v1", api_key="k", max_retries=0, timeout=120)
            usage = client.get("/usage", cast_to=httpx.Response).json()
            assert usage["prompt_tokens"] + usage["completion_tokens"] == used
            said = client.completions.create(model="best", prompt="abc", max_tokens=5)
            used += said.usage.total_tokens
            assert said.model == "transformer" and said.model_extra["crossover"]["cost"] > 0
            with pytest.raises(openai.RateLimitError):
                client.completions.create(model="best", prompt="abc", max_tokens=15)
            client.close()


def test_mistakes_are_one_message(capfd: Capture, folder: Path, tmp_path: Path) -> None:
    weights = f"run=[{folder}/rwkv4.safetensors]"
    tokenizer = f"tokenizer={folder}/tokenizer.json"
    (tmp_path / "keys").write_text('{"ann": {"key": "k", "cost": 1}}')
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
            (weights, tokenizer, f"keys_file={tmp_path}/none"): "none: no such file",
            (weights, tokenizer, "key_file=a", "keys_file=b"): "give one of them",
            (weights, tokenizer, f"keys_file={tmp_path}/keys"): "add price_per_hour= and currency=",
            (weights, tokenizer, "price_per_hour=2"): "price_per_hour=2 has no unit",
            (weights, tokenizer, "routes={best: [rwkv7]}"): "no model is called 'rwkv7'",
            (weights, tokenizer, "routes=7"): "write names and models",
            (weights, tokenizer, "routes={rwkv4: [rwkv4]}"): "a model is called so already",
            (f"run=[{folder}/rwkv4.safetensors,{folder}/rwkv4.safetensors]",): "twice",
        }
        for words, message in cases.items():
            words = words if any("port=" in word for word in words) else (*words, "port=0")
            done = run_script(capfd, "serve", *words)
            assert done.status == 2 and message in done.err, (words, done)
            assert done.err.count("error: ") == 1 and "Traceback" not in done.err
