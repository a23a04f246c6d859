"""The picture of an alignment: what it shows, and where there is none."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import torch

from data.tokenizers import char_tokenizer
from tests.registered_models import shaken
from training.loop.alignment_figure import figure_of, svg


def test_cells_are_the_weights_and_texts_are_escaped() -> None:
    weights = torch.tensor([[0.25, 0.75, 0.0], [1.0, 0.0, 0.0]])
    text = svg(["<", "a", "\n"], ["&", "\x00"], weights, 'step 3, "<b>"')
    root = ET.fromstring(text)
    assert root.get("role") == "img"
    assert root[0].text == 'step 3, "<b>"'
    cells = [one for one in root if one.get("fill-opacity")]
    assert [one.get("fill-opacity") for one in cells] == ["0.25", "0.75", "1.00"]
    letters = [one.text for one in root if one.tag.endswith("text")]
    assert letters == ["<", "a", "↵", "&", "·"]
    assert "prefers-color-scheme" in text
    assert not re.search(r"href|url\(", text)


def test_a_row_of_a_model_up_to_the_end_of_its_line() -> None:
    tokenizer = char_tokenizer("\nabcdefghij|")
    row = tokenizer.encode("abc|cb\naa")
    mark = tokenizer.encode("|")[0]
    model = shaken("seq2seq", separator=mark, attention="additive").eval()
    found = figure_of(model, tokenizer, row, "step 3")
    assert found is not None
    root = ET.fromstring(found)
    letters = [one.text for one in root if one.tag.endswith("text")]
    assert letters == ["a", "b", "c", "c", "b", "↵"]
    opacities = [float(one.get("fill-opacity", 0)) for one in root if one.get("fill-opacity")]
    wanted = model.aligned(torch.tensor([row]))[0, :3].flatten()
    assert torch.allclose(torch.tensor(opacities), wanted, atol=0.006)
    assert figure_of(model, tokenizer, tokenizer.encode("abc"), "") is None
    assert figure_of(model, tokenizer, tokenizer.encode("|abc"), "") is None
    other = shaken("seq2seq", separator=mark, attention="none").eval()
    assert figure_of(other, tokenizer, row, "") is None
    assert figure_of(shaken("gpt").eval(), tokenizer, row, "") is None
