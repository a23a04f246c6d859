from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import models
from core.errors import UserError
from core.files import damage, write_manifest
from models.decoding.generate import generate
from models.decoding.settings import Sampling
from models.registry import ModelSpec, build, model_class
from tests.registered_models import NAMES, shaken, some_tokens, spec_of


def save(path: Path, content: Any) -> Path:
    torch.save(content, path)
    write_manifest(path)
    return path


def checkpoint_of(model: Any, spec: ModelSpec) -> dict[str, Any]:
    weights = {f"model.{name}": value for name, value in model.state_dict().items()}
    return {"state_dict": weights, "crossover": {"identity": {"model": vars(spec)}}}


@pytest.mark.parametrize("name", NAMES)
def test_load_gives_the_saved_model(tmp_path: Path, name: str) -> None:
    model = shaken(name)
    loaded: Any = models.load(save(tmp_path / "a.ckpt", checkpoint_of(model, spec_of(name))))
    assert not loaded.training
    tokens = some_tokens(1, 9)
    torch.testing.assert_close(loaded(tokens)[0], model.eval()(tokens)[0], rtol=0, atol=0)


def test_foreign_and_damaged_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        models.load(tmp_path / "none.ckpt")
    with pytest.raises(UserError, match="is not a Crossover checkpoint"):
        models.load(save(tmp_path / "b.ckpt", {"weights": torch.zeros(3)}))
    path = save(tmp_path / "c.ckpt", checkpoint_of(shaken("gpt"), spec_of("gpt")))
    assert damage(path) is None
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(UserError, match="bytes instead of"):
        models.load(path)


@pytest.mark.parametrize("target", ["os.system", "torch.nn.Linear", "models.rwkv4.Nothing", "x"])
def test_only_models_are_built(target: str) -> None:
    with pytest.raises(UserError, match=r"model\.target="):
        model_class(target)


def test_unknown_fields_are_refused() -> None:
    spec = spec_of("gpt")
    with pytest.raises(UserError, match="has no config field n_lyer"):
        build(ModelSpec(spec.name, spec.size, spec.target, {**spec.config, "n_lyer": 3}))


@pytest.mark.parametrize("name", NAMES)
def test_generation_equals_reading_the_whole_text(name: str) -> None:
    model = shaken(name).eval()
    prompt = some_tokens(1, 7)[0]
    generated = list(generate(model, prompt, 20, Sampling(0)))
    text = prompt.tolist()
    for token in generated:
        logits, _ = model(torch.tensor([text]))
        assert token == int(logits[0, -1].argmax())
        text.append(token)


def test_a_runs_folder_is_its_newest_sound_checkpoint(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "first"
    with pytest.raises(UserError, match="no such file"):
        models.load(run)
    (run / "checkpoints").mkdir(parents=True)
    with pytest.raises(UserError, match="has no checkpoint yet"):
        models.load(run)
    expected: Any = None
    for step in (2, 10):
        expected = shaken("gpt")
        path = run / "checkpoints" / f"step-{step:08d}.ckpt"
        save(path, checkpoint_of(expected, spec_of("gpt")))
    loaded: Any = models.load(run)
    assert torch.equal(loaded.head.weight, expected.head.weight)
    path.write_bytes(b"damaged")
    models.load(str(run))


class Overflowing:
    """Whose logits are not finite from a position on."""

    length_field = ""

    def __init__(self, good: int, dtype: torch.dtype, value: float) -> None:
        self.good, self.dtype, self.value = good, dtype, value

    def init_state(self, batch: int, capacity: int) -> int:
        return 0

    def next_logits(self, tokens: torch.Tensor, state: int) -> tuple[torch.Tensor, int]:
        logits = torch.tensor([[0, 3, 1]], dtype=self.dtype)
        if state >= self.good:
            logits[0, 2] = self.value
        return logits, state + 1

    def __call__(self, tokens: torch.Tensor, state: int) -> tuple[torch.Tensor, int]:
        logits, state = self.next_logits(tokens, state)
        return logits[None], state


@pytest.mark.parametrize("temperature", [0, 0.8])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize(
    ("dtype", "message"),
    [(torch.float16, "use dtype=bfloat16 or dtype=float32"), (torch.bfloat16, "in bfloat16: its")],
)
def test_no_token_is_drawn_from_numbers_that_are_not_finite(
    temperature: float, value: float, dtype: torch.dtype, message: str
) -> None:
    for good in (0, 2):
        model: Any = Overflowing(good, dtype, value)
        tokens = generate(model, torch.tensor([1]), 5, Sampling(temperature))
        drawn: list[int] = []
        with pytest.raises(UserError, match=message):
            for token in tokens:
                drawn.append(token)
        assert len(drawn) == good
