"""An engine as a process of its own: `python -m ramify.engine.process FOLDER MODEL START`, started by the server."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from ramify.core import log as logs
from ramify.core.errors import StartupError
from ramify.engine import handover
from ramify.engine.assemble import assemble
from ramify.engine.idle import Idle
from ramify.engine.loop import Loop
from ramify.engine.remembered import Remembered
from ramify.wire.channel import ZmqClientEnd, ZmqEngineEnd
from ramify.wire.messages import Control, Hello
from ramify.wire.notices import EngineFailed, EngineIdle, EngineReady

log = logging.getLogger(__name__)


def main(folder: Path, model: int, start: int) -> int:
    given = handover.read(folder)
    resolved, meeting = given.models[model], handover.sockets(folder, model, start)
    role = f"engine {resolved.served_name}" if given.several else "engine"
    logs.setup(resolved.settings.log.log_level, role=role)
    handover.follow_parent(given)
    handover.leave_signals_to_parent()
    signal.signal(handover.STOP, lambda *_: os._exit(0))  # while loading there is nothing to finish
    channel = ZmqEngineEnd(meeting, given.workers)
    idle = Idle(resolved.settings.model.idle_unload_after, lambda: handover.tell(given, EngineIdle(model, start)))
    try:
        loop = assemble(resolved, channel, _progress(), idle, Remembered(folder, model))
    except StartupError as e:
        handover.tell(given, EngineFailed(model, start, str(e)))
        return 1
    except MemoryError:
        handover.tell(given, EngineFailed(model, start, "there is not enough memory to load the model"))
        return 1
    _stop_when_told(meeting)
    channel.broadcast(Hello())
    handover.tell(given, EngineReady(model, start))
    if not resolved.settings.model.skip_tokenizer_init:
        loop.scheduler.guides.warm()
    return _run(loop)


def _run(loop: Loop) -> int:
    try:
        loop.run()
    except Exception:
        log.exception("the engine's loop failed")
        return 1
    finally:
        loop.close()
    return 0


def _stop_when_told(meeting: Path) -> None:
    """The signal becomes a message, so that the loop ends between steps."""
    end = ZmqClientEnd(meeting, origin=STOPPER)
    signal.signal(handover.STOP, lambda *_: end.send(Control(0, STOPPER, "stop")))


STOPPER = -1  # an origin that gets no answers


def _progress() -> Callable[[int, int], None]:
    """How far loading is: a bar on a terminal, a few lines elsewhere."""
    if not sys.stderr.isatty():
        return _lines
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("loading weights"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=Console(stderr=True), transient=True)
    task = bar.add_task("")

    def advance(done: int, total: int) -> None:
        if not bar.live.is_started:
            bar.start()
        bar.update(task, completed=done, total=total)
        if done == total:
            bar.stop()

    return advance


def _lines(done: int, total: int) -> None:
    if done == total or (total >= 100 and done % (total // 4) == 0):
        log.info("loaded %d of %d tensors", done, total)


if __name__ == "__main__":
    code = main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
    sys.stderr.flush()
    os._exit(code)  # threads of libraries must not keep a finished engine alive
