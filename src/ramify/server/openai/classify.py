"""`/v1/classify`: of which class a text is, and how probably."""

from __future__ import annotations

import time

from starlette.requests import Request
from starlette.responses import Response

from ramify.engine.ask import new_rid
from ramify.engine.generation import Generation
from ramify.engine.pooled import probabilities, rows_of
from ramify.server import pooled
from ramify.server.openai.answers import ClassData, ClassList, PromptUsage
from ramify.server.pooled import PoolingFields, Texts
from ramify.server.sse import as_json
from ramify.server.state import State
from ramify.server.takes import Takes

SEVERAL = "multi_label_classification"  # a text may be of several classes


class ClassifyRequest(PoolingFields, kw_only=True):
    """The body of `/v1/classify`."""

    input: Texts


TAKES = Takes(ClassifyRequest, pooled.NO_EFFECT)


async def create(request: Request, state: State, asked: ClassifyRequest) -> Response:
    """Classify texts or token ids, one or several."""
    state.check_open()
    state.check_model(asked.model)
    passages, many = await pooled.read(state, asked.input, "input", asked)
    generations = await pooled.pool(state, passages, many, asked)
    count = pooled.tokens_of(generations)
    return as_json(
        ClassList(
            id=f"classify-{new_rid()}",
            created=int(time.time()),
            model=state.told_as(asked.model),
            data=[_class(state, at, generation) for at, generation in enumerate(generations)],
            usage=PromptUsage(count, count),
        )
    )


def _class(state: State, index: int, generation: Generation) -> ClassData:
    head = pooled.head_of(state)
    (logits,) = rows_of(generation, head).tolist()
    one_of_many = state.resolved.model.raw.get("problem_type") != SEVERAL
    found = probabilities(logits, one_of_many)
    label = head.labels[max(range(len(found)), key=found.__getitem__)]
    return ClassData(index=index, label=label, probs=found, num_classes=len(found))
