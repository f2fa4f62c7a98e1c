"""The rotary embedding that a `config.json` describes.

Both spellings are understood: `rope_theta` and `rope_scaling` (transformers 4), and `rope_parameters` (5), which may
hold one set for layers with full attention and one for those with a window.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ramify.config.fields import Raw, above_zero, flag, is_number, positive, sequence
from ramify.core.errors import StartupError

ROPE_NUMBERS = {  # by type, what has to be there
    "default": (),
    "linear": ("factor",),
    "dynamic": ("factor",),
    "llama3": ("factor", "original_max_position_embeddings", "low_freq_factor", "high_freq_factor"),
    "yarn": ("factor", "original_max_position_embeddings"),
    "longrope": ("factor", "original_max_position_embeddings"),
}
ROPE_OPTIONAL = {
    "yarn": ("attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim"),
    "longrope": ("attention_factor",),
}
OTHER_NAMES = {"su": "longrope", "mrope": "default"}  # of the first Phi-3; of Qwen2-VL, which has sections beside it
AXES = 3  # of a position in a video
FULL, SLIDING, CHUNKED = "full_attention", "sliding_attention", "chunked_attention"


@dataclass(frozen=True)
class Rope:
    """Rotary embedding. `kind` is transformers' `rope_type`; `scaling` holds its numbers: `ROPE_NUMBERS`, and what
    there is of `ROPE_OPTIONAL`. `share` is the part of a head that is rotated. `short` and `long` divide frequencies
    (longrope): one for each pair.

    With `sections` a position is three, of time, height and width, and the pairs are divided among them: so many each,
    one run after another or, `alternating`, in turns until one has its share (Qwen2-VL, Qwen3-VL). Text has all three
    alike, and turns as if there were no sections.
    """

    theta: float = 10_000.0
    kind: str = "default"
    scaling: dict[str, float] = field(default_factory=dict)
    share: float = 1.0
    truncate: bool = True
    short: tuple[float, ...] = ()
    long: tuple[float, ...] = ()
    sections: tuple[int, ...] = ()
    alternating: bool = False

    def rotated(self, head_dim: int) -> int:
        """How many elements of a head are rotated."""
        return int(head_dim * self.share)

    def reach(self, context: int) -> int:
        """Positions that it was made for, in a model that says `context`."""
        if self.kind == "yarn":
            return max(context, int(self.scaling["factor"] * self.scaling["original_max_position_embeddings"]))
        return context


def read_ropes(raw: Raw, context: int) -> tuple[Rope, Rope]:
    """Of layers with full attention and of layers with a window; most models have the same for both."""
    where = "rope_parameters" if raw.get("rope_parameters") else "rope_scaling"
    given = raw.get(where) or {}
    if not isinstance(given, dict):
        raise StartupError(f"config.json: {where} should be an object")
    if FULL in given or SLIDING in given:
        return _nested(raw, given, where, FULL, context), _nested(raw, given, where, SLIDING, context)
    full = _rope(raw, given, where, context)
    if raw.get("rope_local_base_freq") is not None:  # only full attention is stretched
        return full, Rope(above_zero(raw, "rope_local_base_freq"), share=full.share)
    return full, full


def _nested(raw: Raw, given: Raw, where: str, kind: str, context: int) -> Rope:
    part = given.get(kind) or {}
    if not isinstance(part, dict):
        raise StartupError(f"config.json: {where}.{kind} should be an object")
    return _rope(raw, part, f"{where}.{kind}", context)


def _rope(raw: Raw, scaling: Raw, where: str, context: int) -> Rope:
    kind = _kind(scaling, where)
    known = dict(scaling)
    if "original_max_position_embeddings" in ROPE_NUMBERS[kind]:
        # Phi-3 has it beside, and that counts; without any, the model was trained on what it says.
        outside = raw.get("original_max_position_embeddings")
        known["original_max_position_embeddings"] = outside or scaling.get("original_max_position_embeddings", context)
    if kind in ("yarn", "longrope") and known.get("factor") is None:
        known["factor"] = context / above_zero(known, "original_max_position_embeddings", where=f"{where}.")
    numbers = {key: above_zero(known, key, where=f"{where}.") for key in ROPE_NUMBERS[kind]}
    numbers |= {
        key: above_zero(known, key, where=f"{where}.")
        for key in ROPE_OPTIONAL.get(kind, ())
        if known.get(key) is not None
    }
    if kind == "llama3" and numbers["low_freq_factor"] >= numbers["high_freq_factor"]:
        raise StartupError(f"config.json: {where}.high_freq_factor should be above low_freq_factor")
    return Rope(
        theta=above_zero(scaling if "rope_theta" in scaling else raw, "rope_theta", 10_000.0),
        kind=kind,
        scaling=numbers,
        share=_share(raw, scaling),
        truncate=flag(known, "truncate", True),
        short=_factors(known, "short_factor", where) if kind == "longrope" else (),
        long=_factors(known, "long_factor", where) if kind == "longrope" else (),
        sections=_sections(known, where),
        alternating=flag(known, "mrope_interleaved"),
    )


def _sections(scaling: Raw, where: str) -> tuple[int, ...]:
    value: Any = scaling.get("mrope_section")
    if value is None:
        return ()
    whole = isinstance(value, list) and all(isinstance(each, int) and not isinstance(each, bool) for each in value)
    if not whole or len(value) != AXES or min(value) < 0:
        raise StartupError(f"config.json: {where}.mrope_section should be {AXES} numbers of pairs and is {value!r}")
    return tuple(value)


def _kind(scaling: Raw, where: str) -> str:
    kind = scaling.get("rope_type", scaling.get("type"))
    if kind is None and "factor" in scaling:
        raise StartupError(f"config.json: {where} has a factor and no rope_type")
    kind = kind or "default"
    if isinstance(kind, str):
        kind = OTHER_NAMES.get(kind, kind)
    if not isinstance(kind, str) or kind not in ROPE_NUMBERS:
        raise StartupError(
            f"config.json: {where} of the type {kind!r} is not supported",
            f"Supported are {', '.join(ROPE_NUMBERS)}. Where the model works unscaled up to its original context, "
            f"take {where} out of config.json and set --context-length to that.",
        )
    return kind


def _share(raw: Raw, scaling: Raw) -> float:
    share = above_zero(scaling if scaling.get("partial_rotary_factor") else raw, "partial_rotary_factor", 1.0)
    if share > 1:
        raise StartupError(f"config.json: partial_rotary_factor should be at most 1 and is {share}")
    return share


def _factors(scaling: Raw, key: str, where: str) -> tuple[float, ...]:
    value: Any = scaling.get(key)
    if not isinstance(value, list) or not value or not all(is_number(each) and each > 0 for each in value):
        raise StartupError(f"config.json: {where}.{key} should be a list of numbers above 0")
    return tuple(float(each) for each in value)


def rotating(raw: Raw, layers: int) -> list[bool]:
    """Which layers turn queries and keys, of families where some do not. `no_rope_layers` has a 1 where one does; an
    empty list is none. By default every fourth does not.
    """
    given = sequence(raw, "no_rope_layers", layers, (int,)) if raw.get("no_rope_layers") else None
    every = positive(raw, "no_rope_layer_interval", 4)
    return [bool(each) for each in given or [(layer + 1) % every for layer in range(layers)]]
