"""From the text of a model's answer to content, reasoning and tool calls, as it arrives.

The answer is read once, from left to right. Text is passed on as soon as it cannot be the beginning of anything else;
what may be a call is held until it is certain to be one (see `Call`) or certain not to be, and is then text. So nothing
that was said is ever taken back, and nothing is lost but the marks of what was understood and white space around them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

from ramify.text.reasoning.count import TokenCount
from ramify.text.reasoning.format import ReasoningFormat
from ramify.text.tools.call import Call
from ramify.text.tools.cursor import Cursor, Markers, Steps
from ramify.text.tools.events import CallStart, Event, merged
from ramify.text.tools.format import BARE, ToolFormat
from ramify.text.tools.parts import Literal
from ramify.text.tools.signatures import Signatures
from ramify.text.tools.voices import Content, Thoughts

USABLE_ID = re.compile(r"[\w.:\-]{1,128}")
ANY_TOOL = Signatures(None)
NO_TOOLS = ToolFormat("none", ())
NO_REASONING = ReasoningFormat("none", (), ())


@dataclass(frozen=True)
class Formats:
    """How a model writes tool calls and reasoning, and what to look for by that. Shared by all requests.

    What has no format is left in the text.
    """

    tools: ToolFormat = NO_TOOLS
    reasoning: ReasoningFormat = NO_REASONING

    @cached_property
    def without_tools(self) -> Formats:
        """For requests that have none."""
        return Formats(reasoning=self.reasoning)

    def needs(self, token: str) -> bool:
        """Whether a special token, by its text, is of a mark: then it has to be left in the text that is parsed."""
        return any(token in mark for mark in [*self.tools.marks(), *self.reasoning.marks()])

    @cached_property
    def begins(self) -> list[Literal]:
        return [Literal(begin) for begin in self.reasoning.begin]

    @cached_property
    def frames(self) -> list[Literal]:
        return [Literal(frame) for frame in self.reasoning.frame]

    @cached_property
    def triggers(self) -> Markers:
        """Words in content at which something else may begin. The end of reasoning is one for what ended it early."""
        firsts = [first for mark in [*self.begins, *self.frames] for first in mark.firsts()]
        return Markers([*self.tools.triggers(), *self.reasoning.end, *firsts])

    @cached_property
    def ends(self) -> Markers:
        """Words in reasoning at which it may end."""
        return Markers([*self.reasoning.end, *(self.reasoning.cut if self.tools.shapes else ())])


class Parser:
    """Of one answer. `feed` it text as it comes and `finish` it; both return what is new, in order.

    signatures: the tools of the request; without, any name is a tool's
    opened: the model is reasoning from its first token on (`ReasoningFormat.open_after`)
    separate: false leaves reasoning in the text, marks and all; calls are still looked for only outside it
    stream_reasoning: false says a block of reasoning in one piece when it ends
    new_id: makes an id for a call; the format's own way if not given
    """

    def __init__(
        self,
        formats: Formats,
        signatures: Signatures = ANY_TOOL,
        *,
        opened: bool = False,
        separate: bool = True,
        stream_reasoning: bool = True,
        new_id: Callable[[], str] | None = None,
    ) -> None:
        self._formats = formats
        self._signatures = signatures
        self._separate = separate
        self._new_id = new_id or formats.tools.new_id
        self._cursor = Cursor()
        self._count = TokenCount()
        self._events: list[Event] = []  # one list throughout: all that emit hold on to it
        self._content = Content(self._events.append)
        self._thoughts = Thoughts(self._events.append, whole=not stream_reasoning)
        self._ids: set[str] = set()
        self._cut = False  # a call has ended the reasoning, whose end mark may still come
        self.calls = 0  # announced so far
        self._steps = self._run(opened and bool(formats.begins))

    @property
    def reasoning_tokens(self) -> int:
        """Tokens of reasoning, its marks included, among those fed so far."""
        return self._thoughts.tokens(self._count)

    @property
    def looked(self) -> int:
        """Characters examined or copied so far: the work done."""
        return self._cursor.looked

    def feed(self, text: str, tokens: int = 0) -> list[Event]:
        """More of the answer. `tokens`: how many it is, for `reasoning_tokens`; one token a feed counts exactly."""
        self._count.add(len(text), tokens)
        self._cursor.add(text)
        return self._advance()

    def finish(self) -> list[Event]:
        """The answer is over: what was held back."""
        self._cursor.ended = True
        return self._advance()

    def _advance(self) -> list[Event]:
        next(self._steps, None)
        events = merged(self._events)
        self._events.clear()
        return events

    def _run(self, opened: bool) -> Steps[None]:
        if opened:
            yield from self._reason_at_once()
        while True:
            said, trigger = self._cursor.upto(self._formats.triggers)
            self._content.say(said)
            if trigger:
                if not (yield from self._open(trigger)):
                    self._content.say(self._cursor.take(1))
            elif self._cursor.ended:
                break
            else:
                yield
        self._content.finish()

    def _open(self, trigger: str) -> Steps[bool]:
        """Read what begins here; false if it is only text."""
        if self._cut and trigger in self._formats.reasoning.end:
            self._cut = False
            yield from self._leave_block(trigger)
            return True
        if (yield from self._open_reasoning()) or (yield from self._open_calls(trigger)):
            return True
        return self._separate and bool((yield from self._match(self._formats.frames)))

    def _match(self, literals: Sequence[Literal]) -> Steps[str]:
        """Read the first literal that stands here; returns its text."""
        for literal in literals:
            start = self._cursor.offset
            self._cursor.pin()
            found = yield from literal.match(self._cursor)
            count = self._cursor.offset - start
            self._cursor.rewind()
            if found:
                return self._cursor.take(count)
        return ""

    # Calls

    def _open_calls(self, trigger: str) -> Steps[bool]:
        for shape in self._formats.tools.shapes:
            if trigger in BARE and not (self._content.line_begins or shape.anywhere):
                continue
            self._cursor.pin()
            if (yield from shape.read(self._cursor, self._new_call)):
                return True
            self._cursor.rewind()
        return False

    def _new_call(self) -> Call:
        return Call(self._signatures, self._announce, self._events.append)

    def _announce(self, call: Call) -> CallStart:
        """From here on there is no way back: the pin at the beginning of the call goes."""
        start = self._cursor.release()
        if self._thoughts.going_on:
            self._cut = True
            start -= self._thoughts.end(start)
        start -= self._content.before_call()
        self.calls += 1
        return CallStart(self.calls - 1, self._id_of(call), call.name, start)

    def _id_of(self, call: Call) -> str:
        given = USABLE_ID.fullmatch(call.id) and call.id not in self._ids
        identity = call.id if given else self._new_id()
        self._ids.add(identity)
        return identity

    # Reasoning

    def _open_reasoning(self) -> Steps[bool]:
        start = self._cursor.offset
        if self._content.spoken and not self._formats.reasoning.repeats:
            return False
        mark = yield from self._match(self._formats.begins)
        if mark:
            yield from self._reason(start, mark)
        return bool(mark)

    def _reason_at_once(self) -> Steps[None]:
        """Some models say the mark though the prompt ends with it."""
        self._thoughts.begin(0)
        self._cursor.pin()
        yield from self._cursor.space()
        if (yield from self._match(self._formats.begins)) and self._separate:
            self._cursor.release()
        else:
            self._cursor.rewind()
        yield from self._reason(0, "")

    def _reason(self, start: int, mark: str) -> Steps[None]:
        """A block, up to and with its end mark, or up to what else ends it."""
        self._thoughts.begin(start)
        if self._separate:
            self._content.between_blocks()
            yield from self._cursor.space()
        else:
            self._content.say(mark)
        while self._thoughts.going_on:
            said, mark = self._cursor.upto(self._formats.ends)
            self._think(said)
            if mark in self._formats.reasoning.end:
                self._thoughts.end(self._cursor.offset + len(mark))
                yield from self._leave_block(mark)
            elif mark:
                if not (yield from self._open_calls(mark)):
                    self._think(self._cursor.take(1))
            elif self._cursor.ended:
                self._thoughts.break_off(self._cursor.offset)
            else:
                yield

    def _leave_block(self, mark: str) -> Steps[None]:
        self._cursor.take(len(mark))
        if self._separate:
            self._content.between_blocks()
            yield from self._cursor.space()
        else:
            self._content.say(mark)

    def _think(self, text: str) -> None:
        if self._separate:
            self._thoughts.think(text)
        else:
            self._content.say(text)
