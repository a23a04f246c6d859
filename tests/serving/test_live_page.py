"""The live page in a real browser; what a server would say is written here."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from serving.app import PAGE, PREDICTED
from tests.browser import SCREENS, audit, browse, needs_browser, violations


def _model(name: str, recurrent: bool) -> dict[str, Any]:
    about = {"title": name.upper(), "parameters": 10**6, "recurrent": recurrent}
    return {"id": name, "crossover": about}


MODELS = [_model("rwkv", True), _model("attending", False)]


def events(name: str) -> str:
    """The stream of a short answer."""
    reading = {"read": 3, "of": 3, "cached": 0, "read_seconds": 0.5}
    said: list[Any] = [{"crossover": reading, "choices": []}]
    for place in range(4):
        costs = {
            "position": 3 + place, "state_bytes": 184_320, "token_seconds": [0.004],
            "worker_seconds": 0.1, "joules": 1.5 * (place + 1), "cost": 0.25, "currency": "EUR",
        }  # fmt: skip
        said.append({"crossover": costs, "choices": [{"text": f"{name}{place} "}]})
    return "".join(f"data: {json.dumps(one)}\n\n" for one in said) + "data: [DONE]\n\n"


def page(actions: str = "") -> str:
    """The page before a server that answers at once, and what is done once it is drawn."""
    answers = {
        "/v1/models": json.dumps({"data": MODELS}),
        "/predicted.json": PREDICTED.read_text(),
        "/v1/tokens": json.dumps({"data": [*range(700)]}),
        **{name: events(name) for name in ("rwkv", "attending")},
    }
    stub = f"""
      const answers = {json.dumps(answers)};
      window.asked = [];
      window.fetch = async (route, options) => {{
        const body = options && options.body ? JSON.parse(options.body) : {{}};
        asked.push([route, body]);
        return new Response(answers[route.endsWith("completions") ? body.model : route]);
      }};
    """
    text = PAGE.read_text().replace("<meta charset", f"<script>{stub}</script><meta charset", 1)
    done = f"<script>addEventListener('load', async () => {{ {actions} }});</script>"
    return text.replace("</html>", done) if "</html>" in text else text + done


@needs_browser
def test_everybody_can_use_it(tmp_path: Path) -> None:
    for one, (width, _) in zip(audit(tmp_path, page()), SCREENS, strict=True):
        assert (one["width"], one["problems"]) == (width, [])


@needs_browser
@pytest.mark.slow
def test_in_the_dark_too(tmp_path: Path) -> None:
    for one in audit(tmp_path, page(), dark=True):
        assert one["dark"] and one["problems"] == []


@needs_browser
@pytest.mark.slow
def test_axe_finds_nothing(tmp_path: Path) -> None:
    assert violations(tmp_path, page()) == []


@needs_browser
def test_a_race_after_a_text_that_was_dropped(tmp_path: Path) -> None:
    """What was asked, token by token what was answered, its costs and its curve; predictions are
    dashed and called so."""
    actions = """
      const kept = document.body.dataset;
      await take(new File(['a long text'], 'book.txt'));
      before.value = 350; before.dispatchEvent(new Event('input'));
      await run(true);
      kept.asked = JSON.stringify(asked.filter(([route]) => route.endsWith('completions')));
      const lines = (id) => [...document.querySelectorAll(`#${id} polyline`)];
      const dashes = (id) => lines(id).map((one) => one.getAttribute('stroke-dasharray'));
      kept.dashes = JSON.stringify([dashes('chart'), dashes('predicted')]);
      document.querySelectorAll('#devices button')[2].click();
    """
    path = tmp_path / "live.html"
    path.write_text(page(actions))
    dom = browse(tmp_path, path, "--virtual-time-budget=3000", "--dump-dom").replace("&quot;", '"')
    asked = json.loads(re.findall(r'data-asked="(\[.*?\])" data', dom)[0])
    assert [body["model"] for _, body in asked] == ["rwkv", "attending"]
    for _, body in asked:
        assert body["prompt"] == [*range(350), *range(700)], "tokens of the text, then the prompt's"
        assert body["stream_options"] == {"include_costs": True}
    assert 'data-dashes="[["none","none"],["7 5","7 5"]]"' in dom
    for text in ("rwkv0 rwkv1 rwkv2 rwkv3", "attending3", "3 of 3 tokens", "500 ms", "184 kB",
                 "6 J", "0.250 EUR", "finished"):  # fmt: skip
        assert text in dom, text
    assert "Predicted for NVIDIA H200 SXM" in dom and "does not fit" not in dom
    assert "Predicted, not measured" in dom
