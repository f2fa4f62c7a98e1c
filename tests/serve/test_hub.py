"""Models by hub id, from a small hub on loopback, and offline."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hub import Hub
from server import refused_to_start, running

from assets import shared

BODY = {"text": "Once upon a time ", "sampling_params": {"max_new_tokens": 4, "temperature": 0}}


@pytest.fixture
def hub() -> Iterator[Hub]:
    folder = shared("weights/TinyStories-656K")
    made = Hub({"org/stories": folder, "org/gated": folder}, gated={"org/gated"})
    yield made
    made.close()


def environment(hub: Hub, home: Path, **more: str) -> dict[str, str]:
    """Nothing of the caller's own environment decides where models come from."""
    ours = {"HF_ENDPOINT": hub.url, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
    return {**ours, "HF_TOKEN": "", **more}


def test_a_hub_id_is_fetched_once_and_then_works_offline(hub: Hub, tmp_path: Path) -> None:
    with running("org/stories", env=environment(hub, tmp_path)) as server:
        assert server.get("/v1/models")["data"][0]["id"] == "org/stories"
        text = server.post("/generate", BODY)["text"]
        assert text.startswith("there was a")
    assert not any(path.endswith((".gguf", ".txt")) and "resolve" in path and "gguf" in path for path in hub.asked)
    hub.asked.clear()
    with running("org/stories", env=environment(hub, tmp_path, HF_HUB_OFFLINE="1")) as server:
        assert server.post("/generate", BODY)["text"] == text
    assert hub.asked == []


def test_a_revision(hub: Hub, tmp_path: Path) -> None:
    said = refused_to_start("org/stories", "--revision", "v9", env=environment(hub, tmp_path))
    assert "no revision 'v9'" in said


def test_missing_gated_offline_and_unreachable(hub: Hub, tmp_path: Path) -> None:
    assert "no model org/nothing on the hub" in refused_to_start("org/nothing", env=environment(hub, tmp_path))
    said = refused_to_start("org/gated", env=environment(hub, tmp_path))
    assert "is gated" in said
    assert "HF_TOKEN" in said
    said = refused_to_start("org/stories", env=environment(hub, tmp_path, HF_HUB_OFFLINE="1"))
    assert "HF_HUB_OFFLINE is set" in said
    assert "hf download org/stories" in said
    nowhere = {**environment(hub, tmp_path), "HF_ENDPOINT": "http://127.0.0.1:9"}
    said = refused_to_start("org/stories", env=nowhere)
    assert "cannot be reached" in said or "could not be fetched" in said


def test_a_token_opens_what_is_gated(hub: Hub, tmp_path: Path) -> None:
    with running("org/gated", env=environment(hub, tmp_path, HF_TOKEN="good")) as server:
        assert server.post("/generate", BODY)["text"]
