"""How long a step of one token for each of many users takes, eager and captured, against what has to be read."""

from __future__ import annotations

from dataclasses import replace

import torch
from measure import ceilings, milliseconds
from served import PAGE, Served, Size
from torch import Tensor

from ramify.layers.batch import Batch, Place
from ramify.ops.cuda.record import CudaCapturer

SIZES = {
    "8B": Size(4096, 32, 32, 8, 14336, 128256, torch.bfloat16),
    "0.6B": Size(1024, 28, 16, 8, 3072, 151936, torch.bfloat16),
}
TINY = {"tiny": Size(64, 1, 4, 2, 96, 200, torch.float32)}
USERS = (1, 64, 256)


def run(device: torch.device, tiny: bool) -> list[dict[str, object]]:
    most, rows = ceilings(device).bytes, []
    context = 40 if tiny else 1024
    for name, size in (TINY if tiny else SIZES).items():
        for invariant in (False, True):
            users = (1, 2) if tiny else USERS
            served = Served(size, device, invariant, 2 + max(users) * -(-(context + 1) // PAGE))
            with torch.inference_mode():
                for count in users:
                    rows.append({"model": name, "linears": "invariant" if invariant else "cuBLAS", "users": count})
                    rows[-1].update(timed(served, count, context, most))
                    print(rows[-1], flush=True)
            del served
    return rows


def timed(served: Served, users: int, context: int, most: float) -> dict[str, object]:
    """`floor ms`: weights and keys and values once, over the bandwidth that was measured."""
    batch = lasting(
        served, served.batch([([1] * (context + 1), served.pages(context + 1), context) for _ in range(users)])
    )

    def compute() -> Tensor:
        return served.model.logits(served.model(batch)).argmax(-1)

    weights = sum(weight.nbytes for name, weight in served.model.named_parameters() if "embedding" not in name)
    read = weights + served.pool.bytes / served.slots * users * context
    found: dict[str, object] = {"eager ms": milliseconds(compute, served.device), "floor ms": read / most * 1e3}
    if served.device.type != "cpu":
        capturer = CudaCapturer(served.device, (users,))
        recording = capturer.begin(compute).result()
        capturer.close()
        took = milliseconds(recording, served.device)
        found |= {"captured ms": took, "of floor": read / most * 1e3 / took, "tokens/s": users / took * 1e3}
    return found


def lasting(served: Served, batch: Batch) -> Batch:
    """With attention prepared for any lengths, as a captured step has it."""
    pages = -(-batch.lengths[0] // PAGE)
    own = [Place(place.write_at_T, served.attention.lasting(place.attention, pages)) for place in batch.places]
    return replace(batch, places=tuple(own))
