"""How long a step of one token for each of many users takes, eager and captured, against what has to be read."""

from __future__ import annotations

from dataclasses import replace

import torch
from measure import Ceilings, bar, ceilings, milliseconds
from served import PAGE, Served, Size
from torch import Tensor

from ramify.layers.batch import Batch, Place
from ramify.ops.cuda.record import CudaCapturer

BF16 = torch.bfloat16
SIZES = {
    "8B": Size(4096, 32, 32, 8, 14336, 128256, BF16),
    "0.6B": Size(1024, 28, 16, 8, 3072, 151936, BF16, head=128),
    "30B-A3B": Size(2048, 48, 32, 4, 6144, 151936, BF16, head=128, experts=(128, 8, 768)),
}
TINY = {
    "tiny": Size(64, 1, 4, 2, 96, 200, torch.float32),
    "tiny experts": Size(64, 1, 4, 2, 96, 200, torch.float32, experts=(4, 2, 32)),
}
USERS = (1, 64, 256)
WAYS = {"cuBLAS": (False, False), "invariant": (True, False), "fp8": (False, True)}  # invariant, fp8
ALONE, TOGETHER, FP8 = 0.85, 0.75, 1.6  # of the roofline, for one user and for many; times bf16


def run(device: torch.device, tiny: bool) -> list[dict[str, object]]:
    most, rows = ceilings(device), []
    context, users = (40, (1, 2)) if tiny else (1024, USERS)
    for name, size in (TINY if tiny else SIZES).items():
        for way, (invariant, fp8) in WAYS.items():
            if fp8 and size.experts is not None:
                continue
            served = Served(size, device, invariant, 2 + max(users) * -(-(context + 1) // PAGE), fp8)
            with torch.inference_mode():
                for count in users if not fp8 else (1,):
                    rows.append({"model": name, "linears": way, "users": count})
                    rows[-1].update(timed(served, count, context, most))
                    print(rows[-1], flush=True)
            del served
    return judged(rows)


def judged(rows: list[dict[str, object]]) -> list[dict[str, object]]:
    """The bars of 8B, by what the captured step took."""
    plain = next((row for row in rows if row["linears"] == "cuBLAS" and row["users"] == 1), None)
    for row in rows:
        if row["model"] != "8B" or "captured ms" not in row:
            continue
        if row["linears"] == "fp8" and plain is not None:
            row["times bf16"] = float(plain["captured ms"]) / float(row["captured ms"])  # type: ignore[arg-type]
            row["bar"] = bar(row["times bf16"], FP8)  # type: ignore[arg-type]
        else:
            row["bar"] = bar(row["of floor"], ALONE if row["users"] == 1 else TOGETHER)  # type: ignore[arg-type]
    return rows


def timed(served: Served, users: int, context: int, most: Ceilings) -> dict[str, object]:
    """`floor ms`: the roofline of what was measured: weights, keys and values once over the bandwidth, or operations
    over the rate of matrix products, whichever is longer.
    """
    batch = lasting(
        served, served.batch([([1] * (context + 1), served.pages(context + 1), context) for _ in range(users)])
    )

    def compute() -> Tensor:
        return served.model.logits(served.model(batch)).argmax(-1)

    read = served.weights(users) + served.pool.bytes / served.slots * users * context
    operations = served.operations(users, context) + 2.0 * users * served.size.hidden * served.size.vocab
    floor = max(read / most.bytes, operations / most.operations) * 1e3
    found: dict[str, object] = {"eager ms": milliseconds(compute, served.device), "floor ms": floor}
    if served.device.type != "cpu":
        capturer = CudaCapturer(served.device, (users,))
        recording = capturer.begin(compute).result()
        capturer.close()
        took = milliseconds(recording, served.device)
        found |= {"captured ms": took, "of floor": floor / took, "tokens/s": users / took * 1e3}
    return found


def lasting(served: Served, batch: Batch) -> Batch:
    """With attention prepared for any lengths, as a captured step has it."""
    pages = -(-batch.lengths[0] // PAGE)
    own = [Place(place.write_at_T, served.attention.lasting(place.attention, pages)) for place in batch.places]
    return replace(batch, places=tuple(own))
