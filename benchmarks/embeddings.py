"""Texts per CPU second: `Engine.encode`, or sentence-transformers on the same texts.

    python benchmarks/embeddings.py ramify MODEL LINES.txt
    python benchmarks/embeddings.py sentence-transformers MODEL LINES.txt

CPU time of one thread, because it says more than wall time where other work runs. sentence-transformers is no
dependency: install it beside, with --no-deps.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable
from pathlib import Path

TEXTS, MOST_LINES, ROUNDS = 128, 16, 3


def texts_of(file: Path) -> list[str]:
    """1 to 15 lines each, the same every time."""
    lines = [line.strip() for line in file.read_text().splitlines() if line.strip()]
    rnd = random.Random(0)
    return [" ".join(rnd.choice(lines) for _ in range(rnd.randrange(1, MOST_LINES))) for _ in range(TEXTS)]


def encoder(library: str, model: str) -> Callable[[list[str]], object]:
    if library == "ramify":
        import ramify

        return ramify.Engine(model, threads=1, allow_auto_truncate=True).encode
    import torch
    from sentence_transformers import SentenceTransformer

    torch.set_num_threads(1)
    return SentenceTransformer(model, device="cpu").encode


def main(library: str, model: str, file: str) -> None:
    encode, texts = encoder(library, model), texts_of(Path(file))
    best = float("inf")
    for _ in range(ROUNDS):
        start = time.process_time()
        encode(texts)
        best = min(best, time.process_time() - start)
    print(f"{library}: {len(texts) / best:.1f} texts per CPU second")


if __name__ == "__main__":
    main(*sys.argv[1:4])
