"""ramify beside what one would use instead, on the same card in the same run: random weights of one shape, greedy.

    generate          transformers' generate, all users in one batch
    generate_batch    transformers' continuous batching, from the first request that ran to the last token
    plain loop        one user: torch's operations, a fixed cache, a captured graph (plain.py)

Tokens/s are those of all users over the whole time, prompts included; of one user those after the first. Needs
transformers, and what the part `serving` needs: see README.md.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from decode_part import SIZES, TINY
from plain import PlainLlama, captured
from running import Running, forget
from served import Size, config_of

TIMES, SAME = 5.0, 1.0  # of transformers at that many users, of the plain loop


@dataclass(frozen=True)
class Load:
    model: Size
    users: int
    prompt: int
    new: int
    context: int


FULL = Load(SIZES["8B"], 64, 512, 256, 2048)
SMALL = Load(TINY["tiny"], 3, 12, 6, 64)


def run(device: torch.device, tiny: bool) -> list[dict[str, object]]:
    load, rows = SMALL if tiny else FULL, []
    for row in (*ours(load, device), *theirs(load, device), *plainly(load, device)):
        print(row, flush=True)
        rows.append(row)
    return compared(rows)


def ours(load: Load, device: torch.device) -> Iterator[dict[str, object]]:
    with Running(load.model, device, load.context, mem_fraction_static=0.5) as engine:
        for users in (load.users, 1):
            engine.warm(users, load.prompt)
            played = engine.play([engine.prompt(load.prompt, user) for user in range(users)], load.new)
            rate = played.rate if users > 1 else played.decode_rate
            yield {"who": "ramify", "users": users, "tokens/s": rate, "TTFT ms": played.first(0.5)}


def theirs(load: Load, device: torch.device) -> Iterator[dict[str, object]]:
    """A peer that fails says how in its row, and the others go on."""
    try:
        from transformers import AutoModelForCausalLM, GenerationConfig, LlamaConfig
    except ImportError as e:
        yield {"who": "transformers", "users": load.users, "failed": str(e)}
        return
    with torch.device(device):
        config = LlamaConfig(**config_of(load.model, load.context))
        model = AutoModelForCausalLM.from_config(config, dtype=load.model.dtype).eval()
    wanted = GenerationConfig(
        max_new_tokens=load.new, min_new_tokens=load.new, do_sample=False, eos_token_id=None, pad_token_id=0
    )
    prompts = torch.randint(1, load.model.vocab, (load.users, load.prompt), generator=torch.Generator().manual_seed(0))
    for name, play in (("generate", generated), ("generate_batch", batched)):
        row: dict[str, object] = {"who": f"transformers {name}", "users": load.users}
        try:
            yield {**row, "tokens/s": play(model, prompts, wanted, device)}
        except Exception as e:  # noqa: BLE001  (whatever a peer does is its own)
            yield {**row, "failed": f"{type(e).__name__}: {e}"[:200]}
    del model
    forget()


def generated(model: Any, prompts: torch.Tensor, wanted: Any, device: torch.device) -> float:
    given = prompts.to(device)
    with torch.inference_mode():
        model.generate(given[:, :8], attention_mask=torch.ones_like(given[:, :8]), generation_config=wanted)
        _wait(device)
        began = time.perf_counter()
        made = model.generate(given, attention_mask=torch.ones_like(given), generation_config=wanted)
        _wait(device)
    return (made.shape[1] - given.shape[1]) * len(given) / (time.perf_counter() - began)


def batched(model: Any, prompts: torch.Tensor, wanted: Any, device: torch.device) -> float:
    """Its own preparations, graphs among them, are not counted."""
    if device.type == "cpu":
        raise RuntimeError("it never returns on a CPU")
    for _ in range(2):  # the first time compiles
        made = model.generate_batch(inputs=prompts.tolist(), generation_config=wanted, record_timestamps=True)
    answers = list(made.values())
    if any(answer.error for answer in answers) or len(answers) < len(prompts):
        raise RuntimeError(f"{len(answers)} of {len(prompts)} answers: {[a.error for a in answers if a.error][:1]}")
    took = max(answer.lifespan[1] for answer in answers) - min(answer.lifespan[0] for answer in answers)
    return sum(len(answer.generated_tokens) for answer in answers) / took


def plainly(load: Load, device: torch.device) -> Iterator[dict[str, object]]:
    with torch.inference_mode():
        model = PlainLlama(load.model, device, load.context)
        step = captured(model.step, device)
        model.position.fill_(load.prompt)
        for _ in range(3):
            step()
        _wait(device)
        began = time.perf_counter()
        for _ in range(load.new):
            step()
            model.token.item()  # an answer is streamed
        took = time.perf_counter() - began
    yield {"who": "plain loop, a graph", "users": 1, "tokens/s": load.new / took}
    del model, step
    forget()


def compared(rows: list[dict[str, object]]) -> list[dict[str, object]]:
    """How many times as fast ramify is, and whether that is the bar."""
    mine = {row["users"]: row["tokens/s"] for row in rows if row["who"] == "ramify"}
    for row in rows:
        if row["who"] == "ramify" or "tokens/s" not in row:
            continue
        times = float(mine[row["users"]]) / float(row["tokens/s"])  # type: ignore[arg-type]
        bar = SAME if row["users"] == 1 else TIMES
        row |= {"ramify is": times, "bar": f"{'met' if times >= bar else 'missed'} ({bar:g})"}
    return rows


def _wait(device: torch.device) -> None:
    if device.type != "cpu":
        torch.cuda.synchronize(device)
