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
from served import PAGE, Served, Size

Answer = tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Asked:
    """Of what model, beside how many, in prompts of how many tokens, for how many new ones."""

    model: Size
    batches: tuple[int, ...]
    prompt: int
    new: int


FULL = Asked(Size(4096, 4, 32, 8, 14336, 32000, torch.bfloat16), (1, 2, 7, 16, 33, 64, 200), 1100, 24)
TINY = Asked(Size(64, 1, 4, 2, 96, 200, torch.float32), (1, 2), 40, 2)


def answers(served: Served, prompts: list[list[int]], new: int, cuts: tuple[int, ...] = ()) -> list[Answer]:
    """Greedy tokens with their log probabilities; prompts are computed up to each of `cuts` first."""
    kept = [(list(prompt), served.pages(len(prompt) + new)) for prompt in prompts]
    done = [0] * len(prompts)
    for cut in cuts:
        rows = [
            (tokens[: min(cut, len(tokens) - 1)], pages, first)
            for (tokens, pages), first in zip(kept, done, strict=True)
        ]
        served.step([row for row in rows if len(row[0]) > row[2]])
        done = [max(len(tokens), first) for tokens, _, first in rows]
    found: list[list[tuple[int, float]]] = [[] for _ in prompts]
    for _ in range(new):
        logits = served.step([(tokens, pages, first) for (tokens, pages), first in zip(kept, done, strict=True)])
        chosen = logits.argmax(-1)
        logp = served.kernels.log_probabilities(logits, chosen).tolist()
        done = [len(tokens) for tokens, _ in kept]
        for row, token in enumerate(chosen.tolist()):
            found[row].append((token, logp[row]))
            kept[row][0].append(token)
    return [tuple(each) for each in found]


def again(served: Served, prompt: list[int], answer: Answer) -> Answer:
    """Log probabilities of an answer's tokens when it is computed as one prompt with what it answered."""
    found: list[tuple[int, float]] = []
    tokens = prompt + [token for token, _ in answer]
    for known in range(len(prompt), len(tokens)):
        logits = served.step([(tokens[:known], served.pages(known), 0)])
        chosen = torch.tensor([tokens[known]], device=served.device)
        found.append((tokens[known], served.kernels.log_probabilities(logits, chosen).tolist()[0]))
    return tuple(found)


def after_a_hit(served: Served, prompt: list[int], new: int, hit: int) -> Answer:
    """A second request that finds the first `hit` tokens in pages that the first one wrote."""
    pages = served.pages(len(prompt) + new)
    served.step([(prompt, pages, 0)])
    shared = hit // PAGE
    own = pages[:shared] + served.pages(len(prompt) + new - shared * PAGE)
    tokens, done, found = list(prompt), shared * PAGE, []
    for _ in range(new):
        logits = served.step([(tokens, own, done)])
        chosen = logits.argmax(-1)
        found.append((int(chosen), served.kernels.log_probabilities(logits, chosen).tolist()[0]))
        done = len(tokens)
        tokens.append(int(chosen))
    return tuple(found)


def prompt_of(asked: Asked, length: int, seed: int) -> list[int]:
    return torch.randint(asked.model.vocab, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


def tables(served: Served, asked: Asked) -> dict[str, set[Answer]]:
    """What was answered to one prompt, by table."""
    prompt, new = prompt_of(asked, asked.prompt, 0), asked.new
    others = [prompt_of(asked, 3 + 37 * number % asked.prompt, number) for number in range(1, max(asked.batches))]
    found: dict[str, set[Answer]] = {}
    found["single"] = {answer for batch in asked.batches for answer in answers(served, [prompt] * min(batch, 16), new)}
    found["mixed"] = {answers(served, [prompt, *others[: batch - 1]], new)[0] for batch in asked.batches}
    found["chunks"] = {
        answers(served, [prompt], new, cuts)[0]
        for cuts in (
            (),
            (1,),
            (asked.prompt // 3, asked.prompt // 2),
            tuple(range(17, asked.prompt, asked.prompt // 5)),
        )
    }
    found["prefix"] = {after_a_hit(served, prompt, new, hit) for hit in (1, asked.prompt // 2, asked.prompt - 1)}
    alone = answers(served, [prompt], new)[0]
    found["decode"] = {alone, again(served, prompt, alone)}
    found["all"] = set().union(*found.values())
    return found


def run(device: torch.device, tiny: bool) -> list[dict[str, object]]:
    asked: Asked = TINY if tiny else FULL
    rows: list[dict[str, object]] = []
    for name, invariant in (("invariant", True), ("cuBLAS", False)):
        pages = 4 + 2 * max(asked.batches) * -(-(asked.prompt + asked.new) // PAGE)
        served = Served(asked.model, device, invariant, pages)
        with torch.inference_mode():
            began = time.perf_counter()
            found = tables(served, asked)
        row: dict[str, object] = {"linears": name, **{table: len(answers) for table, answers in found.items()}}
        row["right"] = not invariant or len(found["all"]) == 1
        row["seconds"] = time.perf_counter() - began
        rows.append(row)
        del served
    return rows
