"""What a model gives instead of tokens: how its hidden states become one vector, and what is computed of that.

hidden states ─ pool ─→ vector ─ dense layers ─→ normalise ─→ an embedding          task `embed`
                               └ classifier ────────────────→ logits of classes     task `classify`
                               └ score ─────────────────────→ rewards               task `reward`
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

PoolingMode = Literal["cls", "last", "mean", "max", "mean_sqrt_len", "weighted_mean", "steps"]
Classifier = Literal["none", "score", "mlp_score", "bert", "roberta", "modernbert", "own"]
Activation = Literal["identity", "tanh", "relu", "gelu", "sigmoid", "silu"]
Squash = Literal["identity", "sigmoid", "softmax"]

NEEDS_ALL = frozenset(
    {"mean", "max", "mean_sqrt_len", "weighted_mean", "cls", "steps"}
)  # modes that no cached prefix serves


@dataclass(frozen=True)
class Dense:
    """A dense layer of sentence-transformers, in a folder of its own."""

    folder: str
    inputs: int
    outputs: int
    bias: bool
    activation: Activation


@dataclass(frozen=True)
class Head:
    """`size` numbers come of a text (of each step of it where `pooling` is `steps`).

    Several modes of pooling are put one behind the other. `longest` is where sentence-transformers cuts, in tokens.
    `prompts` stand before a text by name, `prompt` is the one that stands there unasked, and where `skip_prompt` its
    tokens are read but not pooled. `dimensions` are the lengths an embedding may be cut to, any where none are named.
    `squash` is what makes a score of a single logit; `step` is the token that ends a step. A classifier of its `own` is
    transformers' code.
    """

    task: Literal["embed", "classify", "reward"]
    pooling: tuple[PoolingMode, ...]
    size: int
    classifier: Classifier = "none"
    dense: tuple[Dense, ...] = ()
    normalize: bool = False
    labels: tuple[str, ...] = ()
    squash: Squash = "identity"
    prompts: dict[str, str] = field(default_factory=dict)
    prompt: str | None = None
    skip_prompt: bool = False
    longest: int | None = None
    lower: bool = False
    dimensions: tuple[int, ...] = ()
    step: int | None = None

    @property
    def needs_all(self) -> bool:
        """Every position of a text has to be computed: a prefix from the cache has no hidden states."""
        return any(mode in NEEDS_ALL for mode in self.pooling)


@dataclass(frozen=True)
class Encoder:
    """What an encoder has beside the sizes of a decoder. `positions` is the size of its table of positions, 0 where it
    rotates, and the first position is `first`. `types` is the size of its table of token types, 0 without one. Layers
    in `local` attend to `window` tokens to either side, and rotate by `local_theta`.
    """

    norm_bias: bool = True
    positions: int = 0
    first: int = 0
    types: int = 0
    local: frozenset[int] = frozenset()
    window: int = 0
    local_theta: float = 10_000.0
