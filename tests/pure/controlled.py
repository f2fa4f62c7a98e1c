"""A world whose loop takes orders, and a clock that only a test moves."""

from __future__ import annotations

from concurrent.futures import Future
from pathlib import Path
from typing import Any

from world import World

from ramify.config.machine import Machine
from ramify.config.model import parse_config
from ramify.config.read import overlay
from ramify.config.resolve import Resolved, resolve
from ramify.config.settings import Settings
from ramify.engine.control import Controls
from ramify.engine.meter import EngineMeter
from ramify.engine.sessions import Sessions
from ramify.schedule.scheduler import Observers
from ramify.wire.messages import Answer, Control, FreezeGC, Logging, Replies
from ramify.wire.profile import Profile

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 50,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "max_position_embeddings": 1024,
}


def resolved(**asked: object) -> Resolved:
    settings = overlay(Settings(), {"log_interval": 0.0, **asked}, "test")
    return resolve(settings, parse_config(CONFIG), Path("/m"), Machine(8 << 30, 2, False))


class SlowProfiler:
    """Its futures are done when a test says so."""

    def __init__(self) -> None:
        self.asked: list[Profile] = []
        self.started: Future[None] = Future()
        self.stopped: Future[str] = Future()

    def start(self, asked: Profile) -> Future[None]:
        self.asked.append(asked)
        return self.started

    def stop(self) -> Future[str]:
        return self.stopped


class Controlled(World):
    """A `World` with `Controls`; keyword arguments are the world's."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.now = 0.0
        self.answers: dict[int, Answer] = {}
        self.told: list[Logging | FreezeGC] = []
        self.profiler = SlowProfiler()
        self.settings = resolved(**getattr(self, "asked", {}))
        self.sessions = Sessions(lambda: self.now)
        self.meter = EngineMeter(self.settings)
        self.meter.watch(self.scheduler)
        self.scheduler.observer = Observers(self.meter, self.sessions)
        self.control = Controls(self.settings, self.meter, self.sessions, self.profiler, lambda: self.now)
        self.loop._control = self.control
        self._tickets = 0

    def read(self) -> None:
        replies = []
        while not self.client._outbox.empty():  # type: ignore[attr-defined]
            message = self.client.receive()
            if isinstance(message, Answer):
                self.answers[message.ticket] = message
            elif isinstance(message, Replies):
                replies.append(message)
            else:
                assert isinstance(message, Logging | FreezeGC)
                self.told.append(message)
        for message in replies:
            self.client._outbox.put(message)  # type: ignore[attr-defined]
        super().read()

    def send_order(self, name: str, **args: Any) -> int:
        self._tickets += 1
        self.client.send(Control(self._tickets, 0, name, args))
        return self._tickets

    def order(self, name: str, **args: Any) -> Any:
        """The value of the answer, which has to come with the next step."""
        ticket = self.send_order(name, **args)
        self.step()
        answer = self.answers.pop(ticket)
        assert answer.error is None, answer.error
        return answer.value

    def refused(self, name: str, **args: Any) -> str:
        """The error of the answer, which has to come with the next step."""
        ticket = self.send_order(name, **args)
        self.step()
        answer = self.answers.pop(ticket)
        assert answer.error is not None
        return answer.error
