"""Two layers tell what any number of them amounts to."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from models import meta
from models.meta import build_meta, count_parameters
from tests.registered_models import NAMES, spec_of

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name", NAMES)
def test_a_deep_stack_is_counted_by_its_first_layers(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = spec_of(name, n_layer=5)
    monkeypatch.setattr(meta, "EXACT", 4)
    found = meta.sketch(spec)
    assert found.parameters == count_parameters(spec)
    assert found.positions == spec.config.get("n_positions")


def test_layers_beyond_count_are_not_built(monkeypatch: pytest.MonkeyPatch) -> None:
    built = []
    monkeypatch.setattr(meta, "build_meta", lambda spec: built.append(spec) or build_meta(spec))
    per_layer = meta.sketch(spec_of("rwkv4", n_layer=10**9, n_ffn=256)).parameters / 10**9
    assert [one.config["n_layer"] for one in built] == [1, 2]
    assert per_layer == pytest.approx(13 * 64**2, rel=0.05)  # 13 C^2 and some vectors


def test_no_model_without_memory_imports_the_compiler() -> None:
    """A command line is checked with such models, and that import takes two seconds."""
    code = (
        "import sys; from models.meta import build_meta, parameters;"
        "from tests.registered_models import NAMES, spec_of;"
        "print(*[name for name in NAMES for model in [build_meta(spec_of(name))]"
        " if 'torch._dynamo' in sys.modules or not all(each.is_meta for each in"
        " [*model.parameters(), *model.buffers()])])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("\n", 0), done.stderr
