"""Reading the prepared data: documents in a shuffled order, packed into steps."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor


@dataclass
class Batch:
    """Packed documents: inputs, the token that follows each, its class, and the documents' lengths."""

    tokens: Tensor
    targets: Tensor
    labels: Tensor
    lengths: list[int]


class Documents:
    """The documents of one data file."""

    def __init__(self, stem: Path) -> None:
        self.tokens = np.load(stem.with_suffix(".tokens.npy"), mmap_mode="r", allow_pickle=False)
        self.labels = np.load(stem.with_suffix(".labels.npy"), mmap_mode="r", allow_pickle=False)
        self.borders = np.load(stem.with_suffix(".borders.npy"), allow_pickle=False)

    def __len__(self) -> int:
        return len(self.borders) - 1

    def length(self, index: int) -> int:
        """Return the number of tokens of a document."""
        return int(self.borders[index + 1] - self.borders[index])

    def pack(self, indices: list[int]) -> Batch:
        """Return documents as one batch; the last token of each is only a target."""
        spans = [(int(self.borders[i]), int(self.borders[i + 1])) for i in indices]
        tokens = np.concatenate([self.tokens[a : b - 1] for a, b in spans]).astype(np.int64)
        targets = np.concatenate([self.tokens[a + 1 : b] for a, b in spans]).astype(np.int64)
        labels = np.concatenate([self.labels[a + 1 : b] for a, b in spans]).astype(np.int64)
        lengths = [b - a - 1 for a, b in spans]
        return Batch(torch.from_numpy(tokens), torch.from_numpy(targets), torch.from_numpy(labels), lengths)


class Stream:
    """An endless walk through the documents, each pass in a new order that depends on the seed alone."""

    def __init__(self, documents: Documents, seed: int, epoch: int = 0, position: int = 0) -> None:
        self.documents = documents
        self.seed = seed
        self.epoch = epoch
        self.position = position
        self.order = self._shuffled()

    def _shuffled(self) -> np.ndarray:
        return np.random.default_rng([self.seed, self.epoch]).permutation(len(self.documents))

    def next_indices(self, tokens: int) -> list[int]:
        """Return the next documents, together at least as long as asked."""
        chosen: list[int] = []
        total = 0
        while total < tokens:
            if self.position == len(self.order):
                self.epoch, self.position = self.epoch + 1, 0
                self.order = self._shuffled()
            index = int(self.order[self.position])
            self.position += 1
            chosen.append(index)
            total += self.documents.length(index)
        return chosen

    def next_step(self, tokens: int, micro: int) -> list[Batch]:
        """Return the next step's micro-batches, each at most `micro` tokens."""
        groups: list[list[int]] = [[]]
        size = 0
        for index in self.next_indices(tokens):
            length = self.documents.length(index)
            if groups[-1] and size + length > micro:
                groups.append([])
                size = 0
            groups[-1].append(index)
            size += length
        return [self.documents.pack(group) for group in groups]
