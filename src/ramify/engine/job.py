"""One call of the Python face on its way: its prompts, their choices, and a bar while they last."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ramify.engine.ask import Ask
from ramify.engine.client import Client
from ramify.engine.generation import Generation, News
from ramify.engine.outputs import Shape

Output = dict[str, Any]
BAR_ABOVE = 8  # prompts in one call that earn a progress bar


@dataclass
class Job:
    """The prompts of one call on their way."""

    asks: list[Ask]
    shape: Shape
    one: bool  # there was one prompt rather than a list
    opened: list[Generation] = field(default_factory=list)
    waiting: int = 0

    def open(self, client: Client, deliver: Callable[[News], None]) -> None:
        for ask in self.asks:
            self.opened += client.open(ask, deliver)
        self.waiting = len(self.opened)
        self._place = {generation.submit.rid: index for index, generation in enumerate(self.opened)}

    def leave(self, client: Client) -> None:
        for generation in self.opened:
            client.abort(generation)

    def taken(self, news: News) -> News:
        self.waiting -= news.finish is not None
        return news

    @property
    def _alone(self) -> bool:
        return self.one and len(self.opened) == 1

    def part(self, news: News) -> Output:
        """One choice so far; `index` tells them apart where there are several."""
        output = self.shape.part(news.generation, 0, news.tokens, news.generation.text[: news.said])
        return output if self._alone else {**output, "index": self._place[news.generation.submit.rid]}

    def outputs(self) -> Any:
        """All choices, whole."""
        outputs = [self.shape.whole(generation) for generation in self.opened]
        return outputs[0] if self._alone else outputs


def bar_wanted(asked: bool | None, prompts: int) -> bool:
    return asked if asked is not None else prompts >= BAR_ABOVE and sys.stderr.isatty()


class Bar:
    """Requests done and tokens per second, or nothing."""

    def __init__(self, total: int, shown: bool) -> None:
        self._total, self._shown = total, shown

    def __enter__(self) -> Bar:
        self._tokens, self._start = 0, time.monotonic()
        if self._shown:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
            console = Console(stderr=True)
            self._progress = Progress(*columns, console=console, transient=console.is_terminal)
            self._progress.start()
            self._task = self._progress.add_task("", total=self._total)
        return self

    def advance(self, tokens: int) -> None:
        self._tokens += tokens
        if self._shown:
            rate = self._tokens / max(time.monotonic() - self._start, 1e-9)
            self._progress.update(self._task, advance=1, description=f"{rate:.0f} tokens/s")

    def __exit__(self, *_: object) -> None:
        if self._shown:
            self._progress.stop()
