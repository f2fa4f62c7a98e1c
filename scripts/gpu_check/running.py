"""The whole engine with random weights, without server and tokenizer: token ids in, token ids out."""

from __future__ import annotations

import gc
import json
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from served import Size, config_of

from ramify.core.params import SamplingParams
from ramify.schedule.guide import Allowed, Guided
from ramify.wire.masks import Masks
from ramify.wire.messages import Replies, Submit
from ramify.wire.plan import LogprobsWanted


@dataclass
class Answer:
    """Times are seconds of one clock; `first` and `last` are of its tokens."""

    asked: float
    first: float = 0.0
    last: float = 0.0
    tokens: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Played:
    """What came of requests that were asked together. `steps` and `cpu` are of the engine's loop, in seconds."""

    answers: list[Answer]
    steps: int
    cpu: float

    @property
    def seconds(self) -> float:
        return max(each.last for each in self.answers) - min(each.asked for each in self.answers)

    @property
    def rate(self) -> float:
        """Output tokens a second, prompts included in the time."""
        return sum(len(each.tokens) for each in self.answers) / self.seconds

    @property
    def decode_rate(self) -> float:
        """The same after the last first token."""
        began = max(each.first for each in self.answers)
        late = sum(len(each.tokens) - 1 for each in self.answers)
        return late / max(max(each.last for each in self.answers) - began, 1e-9)

    def first(self, share: float) -> float:
        """Milliseconds to the first token, of which `share` of all requests stay below."""
        waits = sorted(each.first - each.asked for each in self.answers)
        return 1e3 * waits[min(int(share * len(waits)), len(waits) - 1)]


class Some:
    """Guides as a grammar's: every token may follow whose place in the vocabulary is even."""

    def __init__(self, vocab: int) -> None:
        self._words = np.full(-(-vocab // 32), 0x55555555, dtype=np.uint32).view(np.int32)

    def guide(self, submit: Submit) -> Some:
        return self

    def take(self, token: int) -> bool:
        return False

    def forced(self, room: int) -> Sequence[int]:
        return ()

    def look(self, requests: object) -> None: ...

    def masks(self, rows: Sequence[Guided]) -> Allowed:
        return Allowed(Masks([row.index for row in rows], np.tile(self._words, (len(rows), 1)))) if rows else Allowed()

    def warm(self) -> None: ...

    def close(self) -> None: ...


def forget() -> None:
    """Give memory back to the device, so that whoever plans next finds it free."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


class Running:
    """An engine whose loop has a thread of its own; settings by name, as flags have them."""

    def __init__(self, size: Size, device: torch.device, context: int, **asked: Any) -> None:
        from ramify.config.read import overlay
        from ramify.config.settings import Settings
        from ramify.engine.assemble import assemble
        from ramify.engine.build import prepare
        from ramify.wire.channel import inproc

        forget()
        self._folder = tempfile.TemporaryDirectory()
        Path(self._folder.name, "config.json").write_text(json.dumps(config_of(size, context)))
        wanted = {
            "model_path": self._folder.name,
            "device": str(device),
            "load_format": "dummy",
            "skip_tokenizer_init": True,
            **asked,
        }
        self.resolved = prepare(overlay(Settings(), wanted, "gpu_check"))
        end, self._client = inproc()
        self._loop = assemble(self.resolved, end)
        self._cpu, self._numbers, self._vocab = 0.0, 0, size.vocab
        self._stopping = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stopping:
            self._loop.step()
            self._cpu = time.thread_time()

    def __enter__(self) -> Running:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stopping = True
        self._client.send(self._submit([1], 1))  # whoever waits for messages gets one
        self._thread.join(60)
        self._loop.close()
        del self._loop
        self._folder.cleanup()
        forget()

    def guided(self) -> None:
        """From now on every request has masks."""
        self._loop.scheduler.guides = Some(self._vocab)

    def warm(self, users: int, prompt: int) -> None:
        """Compile what has to be compiled, and let steps be captured: twice, since the first time is eager."""
        for _ in range(2):
            self.play([self.prompt(prompt, -1 - user) for user in range(users)], 8)

    def prompt(self, length: int, seed: int) -> list[int]:
        """Random tokens, other ones for every seed."""
        return torch.randint(1, self._vocab, (length,), generator=torch.Generator().manual_seed(seed % 2**62)).tolist()

    def play(self, prompts: Sequence[Sequence[int]], new: int, **asked: Any) -> Played:
        """Ask all at once, and wait for all."""
        steps, cpu = self._loop.scheduler.counts.steps, self._cpu
        open_: dict[str, Answer] = {}
        for prompt in prompts:
            submit = self._submit(prompt, new, **asked)
            open_[submit.rid] = Answer(time.perf_counter())
            self._client.send(submit)
        answers = list(open_.values())
        while open_:
            self._take(open_)
        return Played(answers, self._loop.scheduler.counts.steps - steps, self._cpu - cpu)

    def _take(self, open_: dict[str, Answer]) -> None:
        message = self._client.receive()
        now = time.perf_counter()
        for reply in message.items if isinstance(message, Replies) else ():
            answer = open_.get(reply.rid)
            if answer is None:
                continue
            if reply.tokens:
                answer.first, answer.last = answer.first or now, now
                answer.tokens += reply.tokens
            if reply.finish is not None:
                if reply.finish.type == "abort":
                    raise RuntimeError(f"a request failed: {reply.finish}")
                del open_[reply.rid]

    def _submit(
        self, prompt: Sequence[int], new: int, logprobs: int | None = None, invariant: bool = False, **params: Any
    ) -> Submit:
        self._numbers += 1
        return Submit(
            rid=f"r{self._numbers}",
            origin=0,
            tokens=list(prompt),
            params=SamplingParams(ignore_eos=True, **{"temperature": 0.0, **params}),
            max_new_tokens=new,
            may_shorten=False,
            seed=self._numbers,
            arrived=time.monotonic(),
            logprobs=None if logprobs is None else LogprobsWanted(-1, logprobs),
            invariant=invariant,
        )
