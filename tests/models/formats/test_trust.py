"""Files of weights from anywhere: nothing in them is executed, and each is refused in one line."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import models
from core.errors import UserError
from core.files import inside
from tests.faults import folders  # noqa: F401  (adds its own to MAKERS)
from tests.faults.weights import MAKERS, Payload


@pytest.mark.parametrize("name", MAKERS)
def test_it_is_refused_and_not_executed(tmp_path: Path, name: str) -> None:
    marker = tmp_path / "executed"
    path = MAKERS[name](tmp_path, Payload(marker))
    with pytest.raises(UserError) as refused:
        models.load(path)
    assert not marker.exists()
    text = str(refused.value)
    assert "\n" not in text and len(text) < 600 and text


def test_the_payload_would_work(tmp_path: Path) -> None:
    path = MAKERS["os.system in a zip archive"](tmp_path, Payload(tmp_path / "executed"))
    torch.load(path, weights_only=False)
    assert (tmp_path / "executed").exists()


def test_the_cache_of_hugging_face_links_to_its_blobs(tmp_path: Path) -> None:
    repository = tmp_path / "models--a--b"
    snapshot, blobs = repository / "snapshots" / "123", repository / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    save_file({"a": torch.zeros(1)}, blobs / "456")
    link = snapshot / "model.safetensors"
    link.symlink_to("../../blobs/456")
    assert inside(link) == link
    link.unlink()
    link.symlink_to("../../../456")
    with pytest.raises(UserError, match="link out of its folder"):
        inside(link)
