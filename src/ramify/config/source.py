"""Where a model is: bundled, a folder, or a repository on a hub."""

from __future__ import annotations

import os
import re
from pathlib import Path

from ramify.config.gguf import is_gguf
from ramify.core.errors import StartupError

BUNDLED = "concierge"
HUB_ID = re.compile(r"[A-Za-z0-9][\w.\-]*/[A-Za-z0-9][\w.\-]*")
WANTED = ("*.safetensors", "*.safetensors.index.json", "*.json", "*.jinja", "*.txt", "tokenizer.model", "*.tiktoken")
UNWANTED = ("*.bin", "*.pt", "*.pth", "*.gguf", "*.onnx", "original/*", "consolidated*")


def bundled_model() -> Path:
    """The folder of the demo model inside the package."""
    return Path(__file__).parents[1] / "bundled" / BUNDLED


def locate(model_path: str | None, revision: str | None = None, *, weights: bool = True) -> Path:
    """The local folder of a model, or its GGUF file; fetched from the hub where that is what the path names."""
    if model_path is None or (model_path == BUNDLED and not Path(model_path).exists()):
        return bundled_model()
    folder = Path(model_path).expanduser()
    if folder.is_dir():
        return _only_gguf(folder)
    if is_gguf(folder):
        return folder
    if folder.exists():
        raise StartupError(
            f"{model_path} is a file", "Give the folder that holds config.json and the weights, or a .gguf file."
        )
    if model_path.startswith((".", "/", "~")) or not HUB_ID.fullmatch(model_path):
        raise StartupError(f"there is no folder {model_path}", "Give a folder, or a hub id like Qwen/Qwen3-0.6B.")
    return _from_hub(model_path, revision, weights)


def _only_gguf(folder: Path) -> Path:
    """A folder with nothing but a GGUF file stands for that."""
    others = (folder / "config.json").is_file() or any(folder.glob("*.safetensors"))
    files = [] if others else sorted(folder.glob("*.gguf"))
    if len(files) > 1:
        raise StartupError(f"{folder} has no config.json and several GGUF files", f"Give one of them, like {files[0]}.")
    return files[0] if files else folder


def _from_hub(repository: str, revision: str | None, weights: bool) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    wanted = [p for p in WANTED if weights or p != "*.safetensors"]
    try:
        return Path(
            snapshot_download(repository, revision=revision, allow_patterns=wanted, ignore_patterns=list(UNWANTED))
        )
    except GatedRepoError:
        raise StartupError(
            f"{repository} is gated: its owner asks for an agreement first",
            f"Accept it on the page of {repository}, then log in with `hf auth login` or set HF_TOKEN.",
        ) from None
    except RevisionNotFoundError:
        raise StartupError(f"{repository} has no revision {revision!r}", "Check --revision.") from None
    except RepositoryNotFoundError:
        raise StartupError(
            f"there is no model {repository} on the hub, or it is private",
            "Check the spelling; for a private one set HF_TOKEN. A local folder must exist under that path.",
        ) from None
    except (OfflineModeIsEnabled, LocalEntryNotFoundError) as e:
        raise StartupError(_offline(repository), "Fetch it once with network: hf download " + repository) from e
    except (HfHubHTTPError, OSError) as e:
        raise StartupError(
            f"{repository} could not be fetched: {e}", "Check the network, or give a local folder."
        ) from e


def _offline(repository: str) -> str:
    if os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on"):
        return f"HF_HUB_OFFLINE is set and {repository} is not in the local cache"
    return f"the hub cannot be reached and {repository} is not in the local cache"
