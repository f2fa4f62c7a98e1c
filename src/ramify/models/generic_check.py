"""Before it is served, a model is compared with itself: a few tokens as transformers computes them, and the same ones
as they will be computed here, two texts in one step and one of them in two pieces.

What a look at shapes cannot see is found here: layers that mix tokens outside of attention, positions that are counted
in another way, biases of scores.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ramify.core.errors import StartupError
from ramify.layers.batch import Batch, Place
from ramify.layers.passages import make_passages
from ramify.memory.kv import KVCache, KVPool
from ramify.models.generic import GenericDecoder, GenericEncoder, GenericModel
from ramify.models.generic_attention import OURS
from ramify.ops.attention import Paged
from ramify.ops.reference.attention import ReferenceAttention
from ramify.ops.staging import HostStaging

PAGE = 8
LONG, SHORT, CUT = 7, 4, 3  # tokens of two texts; where the first is cut
MOST = {torch.float32: 1e-3}  # relative error of a typical state
MOST_OF_HALVES = 5e-2


def check(model: GenericModel) -> None:
    """Raises `StartupError` where the two differ."""
    texts = _texts(model)
    try:
        with torch.inference_mode():
            wanted = _by_transformers(model, texts)
            ours = _finished(
                model, _encoded(model, texts) if isinstance(model, GenericEncoder) else _paged(model, texts)
            )
    except Exception as e:
        raise StartupError(f"{model.config.architecture} fails over a few tokens: {type(e).__name__}: {e}") from e
    for one, other in zip(ours, wanted, strict=True):
        error = ((one - other).norm(dim=-1) / other.norm(dim=-1)).median()
        if not error <= MOST.get(model.build.dtype, MOST_OF_HALVES):
            assert model.config.generic is not None
            raise StartupError(
                f"{model.config.architecture} cannot be served by the code of {model.config.generic.release}: over our "
                f"cache it computes something else (by {float(error):.1%}), so it does more than attention shows"
            )


def _texts(model: GenericModel) -> list[Tensor]:
    step = max(model.config.vocab // (LONG + SHORT + 2), 1)
    tokens = (torch.arange(LONG + SHORT) + 2) * step % model.config.vocab
    return list(tokens.to(model.build.device).split([LONG, SHORT]))


def _by_transformers(model: GenericModel, texts: list[Tensor]) -> list[Tensor]:
    """Each text by itself, all at once: logits, or hidden states of a model without."""
    more = {} if isinstance(model, GenericEncoder) else {"use_cache": False}
    model.backbone.set_attn_implementation("eager")
    try:
        with model.whole() as whole:
            found = [whole(input_ids=text[None], **more) for text in texts]
    finally:
        model.backbone.set_attn_implementation(OURS)
    return [(each.last_hidden_state if model.top is None else each.logits)[0].float() for each in found]


def _finished(model: GenericModel, hidden: list[Tensor]) -> list[Tensor]:
    """What is made of the hidden states [T, D] of each text."""
    if model.top is None:
        return [each.float() for each in hidden]
    if model.head is None:
        assert isinstance(model, GenericDecoder)
        return [model.logits(each).float() for each in hidden]
    assert model.head.classifier is not None
    at = 0 if isinstance(model, GenericEncoder) else -1
    return [model.head.classifier(each[at : at + 1 or None])[0].float() for each in hidden]


def _encoded(model: GenericEncoder, texts: list[Tensor]) -> list[Tensor]:
    device = model.build.device
    passages = make_passages([text.tolist() for text in texts], [-1] * len(texts), HostStaging(device))
    return list(model(passages).split([len(text) for text in texts]))


def _paged(model: GenericModel, texts: list[Tensor]) -> list[Tensor]:
    """The first piece of the long text beside the short one, then the rest of it."""
    assert isinstance(model, GenericDecoder)
    config, build, own = model.config, model.build, model.step.backend
    kv_heads, key, _ = config.kept
    pool = KVPool(config.layers, 2, kv_heads, PAGE, key, build.dtype, build.device)
    cache = KVCache([pool], [0] * config.layers)
    long, short = texts
    model.step.backend = ReferenceAttention()
    try:
        first = model(_batch(cache, [(1, 0, long[:CUT]), (2, 0, short)]))
        second = model(_batch(cache, [(1, CUT, long[CUT:])]))
    finally:
        model.step.backend = own
    return [torch.cat((first[:CUT], second)), first[CUT:]]


def _batch(cache: KVCache, rows: list[tuple[int, int, Tensor]]) -> Batch:
    """Rows of (page, first position, tokens)."""
    counts = [len(tokens) for _, _, tokens in rows]
    lengths = [first + len(tokens) for _, first, tokens in rows]
    starts = [sum(counts[:row]) for row in range(len(rows))]
    positions = [torch.arange(first, first + len(tokens)) for _, first, tokens in rows]
    write_at = torch.cat([page * PAGE + at for (page, _, _), at in zip(rows, positions, strict=True)])
    paged = Paged(starts, counts, lengths, torch.tensor([[page] for page, _, _ in rows]))
    tokens_T = torch.cat([tokens for _, _, tokens in rows])
    positions_T = torch.cat(positions)
    return Batch(tokens_T, positions_T, starts, counts, lengths, (Place(write_at, paged),), cache)
