"""How fast a long prompt is computed, at once and in chunks, against the rate at which matrices are multiplied."""

from __future__ import annotations

import torch
from decode_part import SIZES, TINY
from measure import bar, ceilings, milliseconds
from served import PAGE, Served

AT_ONCE = 0.65  # of the measured rate, for 8k tokens of 8B


def run(device: torch.device, tiny: bool) -> list[dict[str, object]]:
    most, rows = ceilings(device).operations, []
    prompt = 64 if tiny else 8192
    for name, size in (TINY if tiny else SIZES).items():
        for linears, invariant in (("cuBLAS", False), ("invariant", True)):
            served = Served(size, device, invariant, 2 + -(-prompt // PAGE))
            for chunk in (prompt, prompt // 4):
                with torch.inference_mode():
                    rows.append(
                        {"model": name, "linears": linears, "chunk": chunk, **timed(served, prompt, chunk, most)}
                    )
                if name == "8B" and chunk == prompt:
                    rows[-1]["bar"] = bar(rows[-1]["of rate"], AT_ONCE)  # type: ignore[arg-type]
                print(rows[-1], flush=True)
            del served
    return rows


def timed(served: Served, prompt: int, chunk: int, most: float) -> dict[str, object]:
    """`of rate`: operations that the prompt takes, over the rate that was measured and the time."""
    tokens, pages = [1] * prompt, served.pages(prompt)

    def compute() -> None:
        for end in range(chunk, prompt + 1, chunk):
            served.step([(tokens[:end], pages, end - chunk)])

    took, operations = milliseconds(compute, served.device), served.operations(prompt, prompt / 2)
    return {"ms": took, "tokens/s": prompt / took * 1e3, "of rate": operations / most * 1e3 / took}
