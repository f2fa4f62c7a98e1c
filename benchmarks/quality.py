"""What quantization costs in quality: perplexity on held-out text, and how far the probabilities move.

python benchmarks/quality.py [--work build/concierge] [--documents 60] [--model FOLDER] ["quantization=w8a8 ..." ...]

Every variant computes the same documents, in chunks, through the kernels and the paged cache that serve. The first
one, without any quantization, is what the others are compared with: KL is of the reference's probabilities to the
variant's, in nats per token, and "same" the share of positions with the same most probable token. The documents are
those that `scripts/concierge/prepare.py` held out of training.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ramify.config.read import overlay
from ramify.config.resolve import Resolved
from ramify.config.settings import Settings
from ramify.engine.assemble import make_runner
from ramify.engine.build import prepare
from ramify.layers.batch import Batch, Place
from ramify.ops.attention import Paged
from ramify.ops.platform import make_platform
from ramify.worker.runner import Runner

CHUNK = 256
VARIANTS = ("dtype=float32", "quantization=w8a8")


@dataclass
class Sums:
    nats: float = 0.0
    kl: float = 0.0
    worst: float = 0.0
    same: int = 0
    tokens: int = 0


def documents(stem: Path, most: int) -> Iterator[Tensor]:
    tokens, borders = (np.load(f"{stem}.{part}.npy", allow_pickle=False) for part in ("tokens", "borders"))
    for first, end in pairwise(borders[: most + 1]):
        yield torch.from_numpy(tokens[first:end].astype(np.int64))


class Variant:
    """A model under some settings, that scores documents."""

    def __init__(self, name: str, model: str | None) -> None:
        self.name = name
        given = dict(part.split("=", 1) for part in name.split())
        settings = overlay(Settings(), {"model_path": model, "max_running_requests": 1, **given}, "quality")
        self.resolved: Resolved = prepare(settings)
        resolved = self.resolved
        platform = make_platform(resolved.device, resolved.threads, resolved.dtype, resolved.linears)
        platform.prepare_thread()
        runner = make_runner(self.resolved, platform)
        assert isinstance(runner, Runner), "perplexity is of models that generate"
        self.runner = runner
        self.totals: dict[str, Sums] = {}

    @torch.inference_mode()
    def logits(self, tokens: Tensor) -> Tensor:
        """fp32 logits at every position, in chunks as a long prompt would come."""
        parts = [self._chunk(tokens, first) for first in range(0, len(tokens), CHUNK)]
        return torch.cat(parts)

    def _chunk(self, tokens: Tensor, first: int) -> Tensor:
        size = self.resolved.page_size
        end = min(first + CHUNK, len(tokens))
        positions, pages = torch.arange(first, end), torch.arange(1, 1 - (-end // size), dtype=torch.int32)[None]
        paged = Paged([0], [end - first], [end], pages)
        batch = Batch(
            tokens_T=tokens[first:end],
            positions_T=positions,
            starts=[0],
            counts=[end - first],
            lengths=[end],
            places=(Place(positions + size, self.runner.attention.prepare(paged)),),
            pool=self.runner.pool,
        )
        return self.runner.model.logits(self.runner.model(batch)).float()

    def add(self, what: str, logits: Tensor, reference: Tensor, targets: Tensor) -> None:
        sums = self.totals.setdefault(what, Sums())
        ours, theirs = logits.log_softmax(-1), reference.log_softmax(-1)
        kl = (theirs.exp() * (theirs - ours)).sum(-1)
        sums.nats -= ours.gather(1, targets[:, None]).double().sum().item()
        sums.kl += kl.double().sum().item()
        sums.worst = max(sums.worst, kl.max().item())
        sums.same += int((ours.argmax(-1) == theirs.argmax(-1)).sum())
        sums.tokens += len(targets)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("build/concierge"))
    parser.add_argument("--documents", type=int, default=60)
    parser.add_argument("--model", default=None)
    parser.add_argument("variants", nargs="*", default=VARIANTS)
    asked = parser.parse_args()
    variants = [Variant(name, asked.model) for name in ("dtype=bfloat16", *asked.variants)]
    print("| text | variant | perplexity | change | KL, mean | KL, worst | same | weights MiB | KV bytes/token |")
    print("|---|---|---|---|---|---|---|---|---|")
    for what in ("dialogues", "stories"):
        for tokens in documents(asked.work / f"held_out_{what}", asked.documents):
            inputs, targets = tokens[:-1], tokens[1:]
            reference = variants[0].logits(inputs)
            for variant in variants:
                logits = reference if variant is variants[0] else variant.logits(inputs)
                variant.add(what, logits, reference, targets)
        first = variants[0].totals[what]
        for variant in variants:
            sums, memory = variant.totals[what], variant.resolved.memory
            perplexity = math.exp(sums.nats / sums.tokens)
            change = perplexity / math.exp(first.nats / first.tokens) - 1
            print(
                f"| {what} ({sums.tokens:,}) | {variant.name} | {perplexity:.4f} | {change:+.2%} "
                f"| {sums.kl / sums.tokens:.5f} | {sums.worst:.3f} | {sums.same / sums.tokens:.2%} "
                f"| {memory.weights / 2**20:.1f} | {memory.bytes_per_token} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
