"""llama.cpp through its C interface, batched as its server does it: python worker_llama.py FILE.gguf

As in llama-server, a request takes the slot whose last tokens have the longest prefix in common with its prompt, steps
mix the next tokens of running slots with as much of the prompts as the batch holds (2048), and slots have KV caches of
their own. Requests that arrive together share no prefix there, so they do not here.
"""

from __future__ import annotations

import importlib.metadata
import os
import sys
from dataclasses import dataclass, field

import llama_cpp
import numpy as np
from wire import Record, serve

BATCH = 2048


@dataclass
class Slot:
    """A sequence: `tokens` are wanted in the cache, the first `done` are in it. Idle when `left` is 0."""

    number: int
    tokens: list[int] = field(default_factory=list)
    done: int = 0
    left: int = 0
    request: int = -1


def common(a: list[int], b: list[int]) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


class Llama:
    def __init__(self, file: str) -> None:
        self.versions = {"llama-cpp-python": importlib.metadata.version("llama-cpp-python")}
        llama_cpp.llama_backend_init()
        self.model = llama_cpp.llama_model_load_from_file(file.encode(), llama_cpp.llama_model_default_params())
        if not self.model:
            raise SystemExit(f"llama.cpp does not load {file}")
        self.vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model))
        self.batch = llama_cpp.llama_batch_init(BATCH, 0, 1)
        self.context = None

    def prepare(self, users: int, context: int) -> None:
        if self.context:
            llama_cpp.llama_free(self.context)
        params = llama_cpp.llama_context_default_params()
        params.n_seq_max, params.n_ctx, params.n_batch = users, users * context, BATCH
        params.n_threads = params.n_threads_batch = len(os.sched_getaffinity(0))
        self.context = llama_cpp.llama_init_from_model(self.model, params)
        if not self.context:
            raise SystemExit(f"llama.cpp has no room for {users} users of {context} tokens")
        self.memory = llama_cpp.llama_get_memory(self.context)
        self.slots = [Slot(number) for number in range(users)]

    def run(self, prompts: list[list[int]], new: int) -> Record:
        record = Record(len(prompts))
        record.cached = [self.begin(request, prompt, new) for request, prompt in enumerate(prompts)]
        while any(slot.left for slot in self.slots):
            self.step(record)
        return record

    def begin(self, request: int, prompt: list[int], new: int) -> int:
        """Give a request its slot. Returns how many of its tokens the slot has; the last is computed in any case."""
        free = [slot for slot in self.slots if not slot.left]
        slot = max(free, key=lambda slot: common(slot.tokens[: slot.done], prompt))
        slot.done = min(common(slot.tokens[: slot.done], prompt), len(prompt) - 1)
        llama_cpp.llama_memory_seq_rm(self.memory, slot.number, slot.done, -1)
        slot.tokens, slot.left, slot.request = list(prompt), new, request
        return slot.done

    def step(self, record: Record) -> None:
        rows = self.fill()
        if status := llama_cpp.llama_decode(self.context, self.batch):
            raise SystemExit(f"llama_decode: {status}")
        for row, slot in rows:
            logits = llama_cpp.llama_get_logits_ith(self.context, row)
            token = int(np.ctypeslib.as_array(logits, (self.vocab,)).argmax())
            slot.tokens.append(token)
            slot.left -= 1
            record.add(slot.request, token)

    def fill(self) -> list[tuple[int, Slot]]:
        """Running slots first, then prompts. Returns the rows that end in logits."""
        self.batch.n_tokens, rows = 0, []
        for slot in sorted((s for s in self.slots if s.left), key=lambda s: len(s.tokens) - s.done > 1):
            stop = min(len(slot.tokens), slot.done + BATCH - self.batch.n_tokens)
            for position in range(slot.done, stop):
                self.append(slot, position)
            slot.done = stop
            if stop == len(slot.tokens):
                rows.append((self.batch.n_tokens - 1, slot))
        return rows

    def append(self, slot: Slot, position: int) -> None:
        row = self.batch.n_tokens
        self.batch.token[row], self.batch.pos[row] = slot.tokens[position], position
        self.batch.n_seq_id[row], self.batch.seq_id[row][0] = 1, slot.number
        self.batch.logits[row] = position == len(slot.tokens) - 1
        self.batch.n_tokens += 1


if __name__ == "__main__":
    serve(lambda: Llama(sys.argv[1]))
