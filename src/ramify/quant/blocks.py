"""Numbers with a scale per tensor, output, group or block, as float32, some rows at a time."""

from __future__ import annotations

from torch import Tensor

from ramify.quant.stored import Floats


def scaled(
    number_ED: Tensor, scale: Tensor, block: tuple[int, int] | None = None, zero: Tensor | None = None
) -> Floats:
    """(number - zero) * scale. `scale` is one number, or [E], or has a row per `block[0]` outputs or per output, and
    a column per `block[1]` inputs, or per equal part of them.
    """
    outputs, inputs = number_ED.shape
    scale_RC = as_table(scale, outputs)
    zero_RC = None if zero is None else as_table(zero, outputs)
    tall, wide = (1 if len(scale_RC) == outputs else outputs), -(-inputs // scale_RC.shape[1])
    if block is not None and scale_RC.numel() > 1 and scale_RC.shape != (outputs, 1):
        tall, wide = block

    def spread(each_RC: Tensor, first: int, last: int) -> Tensor:
        rows_C = each_RC[first // tall : -(-last // tall)].float().repeat_interleave(tall, 0)
        skipped = first - first // tall * tall
        return rows_C[skipped : skipped + last - first].repeat_interleave(wide, 1)[:, :inputs]

    def rows(first: int, last: int) -> Tensor:
        number = number_ED[first:last].float()
        if zero_RC is not None:
            number = number - spread(zero_RC, first, last)
        return number * spread(scale_RC, first, last)

    return Floats((outputs, inputs), rows)


def as_table(scale: Tensor, outputs: int) -> Tensor:
    """[R, C]."""
    if scale.numel() == 1:
        return scale.reshape(1, 1)
    return scale.reshape(outputs, 1) if scale.dim() == 1 else scale
