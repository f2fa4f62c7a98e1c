"""How many different answers does one prompt get, by what runs beside it and by how it was cut?

The tables of SGLang's and Thinking Machines' reports on batch invariance, on a model of Llama's shape with random
weights, of which near ties make the hardest test: greedy tokens, and the log probability of each to the bit. One answer
everywhere is what invariant linears promise; cuBLAS stands beside them as the control.

    single    the same prompt in batches of 1 to N
    mixed     among other prompts, of other lengths
    prefix    prompts that begin alike share their pages
    chunks    the prompt in pieces cut anywhere, and a hit that ends anywhere
    decode    each token computed alone, and all of them again as one prompt
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch import Tensor

from ramify.config.model import ModelConfig
from ramify.config.rope import Rope
from ramify.layers.batch import Batch, Place
from ramify.layers.build import Build
from ramify.layers.loadable import Loadable
from ramify.memory.kv import KVCache, KVPool
from ramify.models.llama import Llama
from ramify.ops.attention import AttentionShape, Paged
from ramify.ops.triton.attention import TritonAttention
from ramify.ops.triton.kernels import triton_kernels
from ramify.quant.scheme import Plain
from ramify.weights.dummy import fill

PAGE = 16
Answer = tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Size:
    """Of the model and of what is asked."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    mlp: int
    vocab: int
    dtype: torch.dtype
    batches: tuple[int, ...]
    prompt: int
    new: int


FULL = Size(4096, 4, 32, 8, 14336, 32000, torch.bfloat16, (1, 2, 7, 16, 33, 64, 200), 1100, 24)
TINY = Size(64, 1, 4, 2, 96, 200, torch.float32, (1, 2), 40, 2)


class Served:
    """A model, and requests in pages of their own that are computed step by step."""

    def __init__(self, size: Size, device: torch.device, invariant: bool, pages: int) -> None:
        head = size.hidden // size.heads
        config = ModelConfig(
            architecture="LlamaForCausalLM", vocab=size.vocab, hidden=size.hidden, layers=size.layers, heads=size.heads,
            kv_heads=size.kv_heads, head_dim=head, mlp=size.mlp, norm_eps=1e-5, activation="silu", rope=Rope(),
            context=8192, tied=False, dtype=str(size.dtype), attention_bias=False, mlp_bias=False, window=None,
            eos_ids=(), windowed=(False,) * size.layers,
        )  # fmt: skip
        dtype = str(size.dtype).removeprefix("torch.")
        self.device, self.kernels = device, triton_kernels(invariant)
        self.attention = TritonAttention(AttentionShape(size.heads, size.kv_heads, head, PAGE, dtype, "cuda"), device)
        self.model = Llama(
            Build(self.kernels, self.attention, Plain(), Plain(), size.dtype, device, config.context), config
        )
        _random(self.model)
        self.pool = KVCache(
            [KVPool(size.layers, pages, size.kv_heads, PAGE, head, size.dtype, device)], [0] * size.layers
        )
        self._pages = pages
        self._free = 1

    def pages(self, tokens: int) -> list[int]:
        """New ones; all begin anew when they are out."""
        needed = -(-tokens // PAGE)
        if self._free + needed > self._pages:
            self._free = 1
        self._free += needed
        return list(range(self._free - needed, self._free))

    def step(self, rows: list[tuple[list[int], list[int], int]]) -> Tensor:
        """Rows of (tokens so far, pages, first position to compute): log probabilities of the position after each."""
        counts = [len(tokens) - first for tokens, _, first in rows]
        starts, lengths = [sum(counts[:row]) for row in range(len(rows))], [len(tokens) for tokens, _, _ in rows]
        width = max(len(pages) for _, pages, _ in rows)
        tables = torch.tensor([pages + [0] * (width - len(pages)) for _, pages, _ in rows], dtype=torch.int32)
        places = [
            [pages[position // PAGE] * PAGE + position % PAGE for position in range(first, len(tokens))]
            for tokens, pages, first in rows
        ]
        batch = Batch(
            tokens_T=self._numbers([token for tokens, _, first in rows for token in tokens[first:]]),
            positions_T=self._numbers(
                [position for tokens, _, first in rows for position in range(first, len(tokens))]
            ),
            starts=starts,
            counts=counts,
            lengths=lengths,
            places=(
                Place(
                    self._numbers([place for each in places for place in each]),
                    self.attention.prepare(Paged(starts, counts, lengths, tables)),
                ),
            ),
            pool=self.pool,
        )
        hidden_TD = self.model(batch)
        last = self._numbers([start + count - 1 for start, count in zip(starts, counts, strict=True)])
        return self.model.logits(hidden_TD[last]).float()

    def _numbers(self, numbers: list[int]) -> Tensor:
        return torch.tensor(numbers, dtype=torch.int64, device=self.device)

    def answers(self, prompts: list[list[int]], new: int, cuts: tuple[int, ...] = ()) -> list[Answer]:
        """Greedy tokens with their log probabilities; prompts are computed up to each of `cuts` first."""
        kept = [(list(prompt), self.pages(len(prompt) + new)) for prompt in prompts]
        done = [0] * len(prompts)
        for cut in cuts:
            rows = [
                (tokens[: min(cut, len(tokens) - 1)], pages, first)
                for (tokens, pages), first in zip(kept, done, strict=True)
            ]
            self.step([row for row in rows if len(row[0]) > row[2]])
            done = [max(len(tokens), first) for tokens, _, first in rows]
        found: list[list[tuple[int, float]]] = [[] for _ in prompts]
        for _ in range(new):
            logits = self.step([(tokens, pages, first) for (tokens, pages), first in zip(kept, done, strict=True)])
            chosen = logits.argmax(-1)
            logp = self.kernels.log_probabilities(logits, chosen).tolist()
            done = [len(tokens) for tokens, _ in kept]
            for row, token in enumerate(chosen.tolist()):
                found[row].append((token, logp[row]))
                kept[row][0].append(token)
        return [tuple(each) for each in found]

    def again(self, prompt: list[int], answer: Answer) -> Answer:
        """Log probabilities of an answer's tokens when it is computed as one prompt with what it answered."""
        found: list[tuple[int, float]] = []
        tokens = prompt + [token for token, _ in answer]
        for known in range(len(prompt), len(tokens)):
            logits = self.step([(tokens[:known], self.pages(known), 0)])
            chosen = torch.tensor([tokens[known]], device=self.device)
            found.append((tokens[known], self.kernels.log_probabilities(logits, chosen).tolist()[0]))
        return tuple(found)

    def after_a_hit(self, prompt: list[int], new: int, hit: int) -> Answer:
        """A second request that finds the first `hit` tokens in pages that the first one wrote."""
        pages = self.pages(len(prompt) + new)
        self.step([(prompt, pages, 0)])
        shared = hit // PAGE
        own = pages[:shared] + self.pages(len(prompt) + new - shared * PAGE)
        tokens, done, found = list(prompt), shared * PAGE, []
        for _ in range(new):
            logits = self.step([(tokens, own, done)])
            chosen = logits.argmax(-1)
            found.append((int(chosen), self.kernels.log_probabilities(logits, chosen).tolist()[0]))
            done = len(tokens)
            tokens.append(int(chosen))
        return tuple(found)


def _random(model: torch.nn.Module) -> None:
    for number, layer in enumerate(each for each in model.modules() if isinstance(each, Loadable)):
        for name in layer.declared():
            weight = layer.memory(name)
            fill(name, weight, torch.Generator(weight.device).manual_seed(number))
        layer.loaded()


def prompt_of(size: Size, length: int, seed: int) -> list[int]:
    return torch.randint(size.vocab, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


def tables(served: Served, size: Size) -> dict[str, set[Answer]]:
    """What was answered to one prompt, by table."""
    prompt, new = prompt_of(size, size.prompt, 0), size.new
    others = [prompt_of(size, 3 + 37 * number % size.prompt, number) for number in range(1, max(size.batches))]
    found: dict[str, set[Answer]] = {}
    found["single"] = {answer for batch in size.batches for answer in served.answers([prompt] * min(batch, 16), new)}
    found["mixed"] = {served.answers([prompt, *others[: batch - 1]], new)[0] for batch in size.batches}
    found["chunks"] = {
        served.answers([prompt], new, cuts)[0]
        for cuts in ((), (1,), (size.prompt // 3, size.prompt // 2), tuple(range(17, size.prompt, size.prompt // 5)))
    }
    found["prefix"] = {served.after_a_hit(prompt, new, hit) for hit in (1, size.prompt // 2, size.prompt - 1)}
    alone = served.answers([prompt], new)[0]
    found["decode"] = {alone, served.again(prompt, alone)}
    found["all"] = set().union(*found.values())
    return found


def run(device: torch.device, tiny: bool) -> list[dict[str, object]]:
    size, rows = TINY if tiny else FULL, []
    for name, invariant in (("invariant", True), ("cuBLAS", False)):
        pages = 4 + 2 * max(size.batches) * -(-(size.prompt + size.new) // PAGE)
        served = Served(size, device, invariant, pages)
        with torch.inference_mode():
            began = time.perf_counter()
            found = tables(served, size)
        row: dict[str, object] = {"linears": name, **{table: len(answers) for table, answers in found.items()}}
        row["right"] = not invariant or len(found["all"]) == 1
        row["seconds"] = time.perf_counter() - began
        rows.append(row)
        del served
    return rows
