"""What kernels need to know of the states that a step goes on from and leaves behind."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Spans:
    """The rows of a step, cut where a state is to stay. All int64.

    Row i begins at token `starts_N[i]` with the state in slot `from_N[i]`; slot 0 is none: zeros. Its spans are those
    from `offsets_N[i]` to before `offsets_N[i + 1]`, at least one: span s goes on to before token `ends_S[s]`, and the
    state there goes to slot `to_S[s]`.
    """

    starts_N: Tensor
    from_N: Tensor
    offsets_N: Tensor  # one more than rows
    ends_S: Tensor
    to_S: Tensor

    def clone(self) -> Spans:
        return Spans(*(tensor.clone() for tensor in self.tensors))

    def copy_(self, other: Spans) -> None:
        for own, new in zip(self.tensors, other.tensors, strict=True):
            own.copy_(new)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return (self.starts_N, self.from_N, self.offsets_N, self.ends_S, self.to_S)


def dense_rows(x: Tensor) -> Tensor:
    """Rows may stand apart, what is in them may not."""
    return x if x.stride(1) == 1 else x.contiguous()
