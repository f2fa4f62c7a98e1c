"""Checkpoints that somebody else quantized, behind the command that serves them."""

from __future__ import annotations

import subprocess
from pathlib import Path

from server import PYTHON, running

from assets import BUNDLED, shared


def test_a_quantized_checkpoint(tmp_path: Path) -> None:
    """Written by the command, served, explained."""
    out = tmp_path / "small"
    text = tmp_path / "text.txt"
    text.write_text("Once upon a time there was a fox who counted stars, and an owl who asked her why. " * 8)
    command = [PYTHON, "-m", "ramify.cli.main"]
    made = subprocess.run(
        [*command, "quantize", str(BUNDLED), str(out), "--scheme", "w8a8", "--text", str(text)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "perplexity" in made.stdout
    explained = subprocess.run([*command, "explain", str(out)], capture_output=True, text=True, check=True).stdout
    assert "compressed-tensors" in explained
    assert "computed in int8" in " ".join(explained.split())
    with running(str(out), "--max-total-tokens", "512") as server:
        answer = server.post("/generate", {"text": "Once upon a time", "sampling_params": {"max_new_tokens": 8}})
        assert answer["meta_info"]["completion_tokens"] == 8
        assert server.get("/get_server_info")["quantization"] == "compressed-tensors"


def test_a_gguf_file() -> None:
    """Tokenizer and all from the one file."""
    file = shared("weights/TinyStories-656K") / "TinyStories-656K-Q8_0.gguf"
    asked = {"temperature": 0, "max_new_tokens": 24}
    with running(str(file), "--max-total-tokens", "512") as server:
        info = server.get("/get_server_info")
        assert (info["quantization"], info["dtype"]) == ("gguf", "bfloat16")
        answer = server.post("/generate", {"text": "", "sampling_params": asked})
        assert answer["text"].startswith("Once upon a time, there was a little girl named Lily. She had a toy car")
