"""Muon: momentum whose matrix is replaced by the nearest orthogonal one before it is applied.

Written here rather than taken from torch because torch's version iterates in bfloat16, which is slow on CPUs without
bfloat16 hardware, and treats every matrix on its own. This one works in float32 on stacks of equal shape, and iterates
on the small Gram matrix instead of the full one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def orthogonalize(stack: Tensor, steps: int = 5) -> Tensor:
    """Return matrices [n, rows, columns] with all singular values brought near one (Newton-Schulz iteration).

    Each step maps X to (a + b G + c G^2) X with G = X X^T. These polynomials of G commute, so they are multiplied up
    on the Gram matrix, and the wide matrix is touched only at the beginning and the end.
    """
    tall = stack.shape[1] > stack.shape[2]
    x = stack.transpose(1, 2) if tall else stack
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    gram = x @ x.transpose(1, 2)
    identity = torch.eye(gram.shape[1], dtype=gram.dtype, device=gram.device)
    a, b, c = COEFFICIENTS
    product = identity.expand_as(gram)
    for step in range(steps):
        factor = a * identity + b * gram + c * (gram @ gram)
        product = factor @ product if step else factor
        if step + 1 < steps:
            gram = factor @ gram @ factor
    x = product @ x
    return x.transpose(1, 2) if tall else x


class Muon(torch.optim.Optimizer):
    """Muon for the weight matrices of the layers."""

    def __init__(
        self, parameters: Iterable[Tensor], lr: float, momentum: float = 0.95, weight_decay: float = 0.0
    ) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:
        """Apply one update."""
        if closure is not None:
            raise ValueError("closures are not supported")
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape[parameter.shape].append(parameter)
            for parameters in by_shape.values():
                self._update(parameters, group["lr"], group["momentum"], group["weight_decay"])

    def _update(self, parameters: list[Tensor], lr: float, momentum: float, weight_decay: float) -> None:
        """Update parameters of one shape together."""
        looked_ahead = []
        for parameter in parameters:
            state = self.state[parameter]
            if "velocity" not in state:
                state["velocity"] = torch.zeros_like(parameter)
            velocity = state["velocity"].lerp_(parameter.grad, 1 - momentum)
            looked_ahead.append(parameter.grad.lerp(velocity, momentum))
        rows, columns = parameters[0].shape
        scale = lr * max(1.0, rows / columns) ** 0.5
        for parameter, update in zip(parameters, orthogonalize(torch.stack(looked_ahead)), strict=True):
            parameter.mul_(1 - lr * weight_decay).sub_(update, alpha=scale)
