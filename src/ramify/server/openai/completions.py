"""`/v1/completions`: OpenAI's, with SGLang's extensions."""

from __future__ import annotations

import time
from typing import Any

from msgspec import UNSET, UnsetType
from starlette.requests import Request

from ramify.core.errors import BadRequest
from ramify.core.finish import Finish
from ramify.engine.ask import Ask, new_rid
from ramify.engine.constraints import note_of
from ramify.engine.generation import Generation, News
from ramify.server.ask import request_ids, routes_of, split_prompts, tokenize
from ramify.server.feed import Feed, collect
from ramify.server.native import rids_of
from ramify.server.openai import common
from ramify.server.openai.answers import SglExt, TextChoice, TextChunk, TextCompletion, TextLogprobs, Usage
from ramify.server.openai.common import SamplingFields
from ramify.server.sessions import continued, one_each
from ramify.server.sse import EventStream, as_json, frame
from ramify.server.state import State
from ramify.server.takes import Takes
from ramify.text.detokenize import Offsets
from ramify.wire.result import TokenLogprobs

DEFAULT_MAX_TOKENS = 16


class CompletionRequest(SamplingFields, kw_only=True):
    """The body of `/v1/completions`."""

    prompt: str | list[str | int | list[int]]
    max_tokens: int | None = None
    echo: bool | None = None
    logprobs: int | None = None


REFUSED = {
    **common.REFUSED,
    "suffix": "fill-in-the-middle",
}
NAMES = {**common.NAMES, "input_ids": "prompt", "top_logprobs_num": "logprobs"}
TAKES = Takes(CompletionRequest, common.NO_EFFECT, REFUSED)


async def create(request: Request, state: State, asked: CompletionRequest) -> Any:
    """Complete one prompt, or a list of them: OpenAI's text completions, with SGLang's extensions."""
    state.check_open()
    state.check_model(asked.model)
    asks = await _asks(state, asked)
    answer = _Answer(state, asked, asks)
    if asked.streams:
        keep_alive = state.resolved.settings.server.keep_alive_interval
        return await EventStream.over(answer, Feed(state, asks), keep_alive)
    return as_json(answer.whole(await collect(state, asks)))


async def _asks(state: State, asked: CompletionRequest) -> list[Ask]:
    prompts = await _prompts(state, asked.prompt)
    params, notes = common.sampling_params(state, asked, asked.max_tokens), note_of(common.wanted(asked))
    if asked.logprobs is not None and not 0 <= asked.logprobs <= common.MAX_TOP_LOGPROBS:
        raise BadRequest(f"logprobs should be between 0 and {common.MAX_TOP_LOGPROBS}", param="logprobs")
    if asked.echo and asked.session_params is not None:
        raise BadRequest("echo does not go with session_params: the session has the prompt", param="echo")
    (session, *_) = one_each(asked.session_params, len(prompts), batch=False)
    turns = [await continued(state, session, prompt) for prompt in prompts]
    rids = request_ids(new_rid() if asked.rid is None else asked.rid, len(prompts), len(prompts) > 1)
    routes = routes_of(state, asked, len(prompts), asked.model)
    return [
        Ask(
            tokens=tokens,
            params=params,
            rid=rid,
            stream=asked.streams,
            usual=DEFAULT_MAX_TOKENS,
            notes=notes,
            return_logprob=asked.logprobs is not None,
            logprob_start=common.WHOLE_PROMPT if asked.echo and asked.logprobs is not None else -1,
            top_logprobs=asked.logprobs or 0,
            arrived=time.monotonic(),
            turn=turn,
            **route,
            **common.inside(asked),
        )
        for (tokens, turn), rid, route in zip(turns, rids, routes, strict=True)
    ]


async def _prompts(state: State, prompt: Any) -> list[list[int]]:
    """One text, several, one list of ids, or several."""
    prompts, _ = split_prompts(prompt, "prompt")
    return await tokenize(state, prompts) if isinstance(prompts[0], str) else prompts


class _Answer:
    """One request's answer, whole or in chunks."""

    def __init__(self, state: State, asked: CompletionRequest, asks: list[Ask]) -> None:
        self._state = state
        self._asked = asked
        self._model = state.told_as(asked.model)
        prompts, _ = split_prompts(asked.prompt, "prompt")
        self._texts = {rid: prompt for ask, prompt in zip(asks, prompts, strict=True) for rid in rids_of(ask)}
        self._index = {rid: number for number, rid in enumerate(rid for ask in asks for rid in rids_of(ask))}
        numbered = len(asks) > 1 and not isinstance(asked.rid, list)
        self._id = asks[0].rid.rpartition("_")[0] if numbered else asks[0].rid
        self._created = int(time.time())
        self._sent: dict[str, int] = {}  # tokens told of, by request
        self._offsets: dict[str, Offsets] = {}  # likewise
        self._finished: list[Generation] = []

    def whole(self, generations: list[Generation]) -> TextCompletion:
        choices = []
        for generation in generations:
            text = self._echo(generation) + generation.text
            choices.append(self._choice(generation, 0, len(generation.ids), text, True, generation.finish))
        return TextCompletion(
            id=self._id,
            created=self._created,
            model=self._model,
            choices=choices,
            usage=common.usage(self._state, generations),
            metadata=common.metadata(self._state),
            sglext=self._extension(generations),
        )

    def _extension(self, generations: list[Generation]) -> SglExt | UnsetType:
        cached = self._asked.return_cached_tokens_details
        return common.extension(generations, cached=cached, prompt=False, output=False)

    def _chunk(self, choices: list[TextChoice], usage: Usage | None = None) -> TextChunk:
        return TextChunk(
            id=self._id,
            created=self._created,
            model=self._model,
            choices=choices,
            usage=usage,
        )

    def _echo(self, generation: Generation) -> str:
        if not self._asked.echo:
            return ""
        text = self._texts[generation.submit.rid]
        return text if isinstance(text, str) else self._state.words().decode(text)

    def _choice(
        self, generation: Generation, first: int, last: int, text: str, begins: bool, finish: Finish | None
    ) -> TextChoice:
        """Output tokens `first` to `last`, said as `text`."""
        scored = self._asked.logprobs is not None
        choice = TextChoice(
            index=self._index[generation.submit.rid],
            text=text,
            logprobs=self._logprobs(generation, first, last, begins) if scored else None,
            finish_reason=finish.type if finish is not None else None,
            matched_stop=finish.matched if finish is not None else None,
        )
        if self._asked.return_hidden_states and finish is not None:
            choice.hidden_states = common.last_hidden(self._asked, generation)
        if self._asked.return_token_ids:
            choice.token_ids = generation.ids[first:last]
            choice.prompt_token_ids = generation.submit.tokens if begins else UNSET
        return choice

    def _logprobs(self, generation: Generation, first: int, last: int, begins: bool) -> TextLogprobs:
        """Output tokens `first` to `last`; where the text begins and is echoed, the prompt's before them."""
        output = generation.output_logprobs or TokenLogprobs(0, [])
        ids, values = list(generation.ids[first:last]), list[float | None](output.values[first:last])
        tops = _tops(output, first, last, bool(self._asked.logprobs))
        offsets = self._output_offsets(generation).of(ids)
        if self._asked.echo and begins:
            prompt = generation.prompt_logprobs or TokenLogprobs(0, [])
            ids = [*generation.submit.tokens, *ids]
            values = [None, *prompt.values, *values]
            tops = [None, *_tops(prompt, 0, len(prompt.values), bool(self._asked.logprobs)), *tops]
            offsets = [*self._prompt_offsets(generation), *offsets]
        return common.text_logprobs(self._state.words(), ids, values, tops, offsets)

    def _prompt_offsets(self, generation: Generation) -> list[int]:
        """Of prompt tokens in the echoed text. What the tokenizer put before it is not in that text, and has no width
        there.
        """
        whole = Offsets(self._state.words().detokenizer(True, ()))
        offsets = whole.of(generation.submit.tokens)
        before = max(whole.end - len(self._echo(generation)), 0)
        return [max(offset - before, 0) for offset in offsets]

    def _output_offsets(self, generation: Generation) -> Offsets:
        """Of output tokens that were not told of yet."""
        submit = generation.submit
        if submit.rid not in self._offsets:
            detokenizer = self._state.words().detokenizer(submit.params.skip_special_tokens, submit.tokens)
            self._offsets[submit.rid] = Offsets(detokenizer, len(self._echo(generation)))
        return self._offsets[submit.rid]

    # -- in events -----------------------------------------------------------------------------------------------------

    def begin(self) -> bytes:
        return b""

    def news(self, news: News) -> bytes:
        generation, options = news.generation, self._asked.stream_options
        rid = generation.submit.rid
        begins = rid not in self._sent
        if not (news.text or news.finish or self._asked.logprobs is not None or begins):
            return b""
        text = (self._echo(generation) if begins else "") + news.text
        choice = self._choice(generation, self._sent.get(rid, 0), news.tokens, text, begins, news.finish)
        self._sent[rid] = news.tokens
        if news.finish is not None:
            self._finished.append(generation)
        each = options is not None and options.continuous_usage_stats
        return frame(self._chunk([choice], common.usage(self._state, [generation]) if each else None))

    def end(self) -> bytes:
        """SGLang's extension and the usage, if they were asked for."""
        options, last = self._asked.stream_options, b""
        if (extension := self._extension(self._finished)) is not UNSET:
            chunk = self._chunk([])
            chunk.sglext = extension
            last = frame(chunk)
        if options is not None and options.include_usage:
            last += frame(self._chunk([], common.usage(self._state, self._finished)))
        return last


def _tops(scored: TokenLogprobs, first: int, last: int, wanted: bool) -> list[Any]:
    if not wanted:
        return [None] * (last - first)
    return list(zip(scored.top_values[first:last], scored.top_ids[first:last], strict=True))
