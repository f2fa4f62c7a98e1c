"""A reasoning format: how a model marks off what it thinks from what it says."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ReasoningFormat:
    """How a family of models writes reasoning.

    begin: the block begins with one of these
    end: it ends with one of these
    always: the model reasons from its first token, also where neither the prompt nor the model says `begin`
    repeats: blocks may come anywhere; else only before everything else
    cut: where tools are in play, a call that begins with one of these ends the reasoning if the model forgot to
    frame: marks around the answer that are no text, such as the head of a channel
    resume: what the model writes between the block and the answer; line breaks if not given
    head: what an answer begins with where it has to begin with something
    signs: sets of texts; a chat template that holds all texts of one set is for this format

    White space in `begin` and `frame` stands for any amount; there is none in `end` and `cut`.
    """

    name: str
    begin: tuple[str, ...]
    end: tuple[str, ...]
    always: bool = False
    repeats: bool = False
    cut: tuple[str, ...] = ()
    frame: tuple[str, ...] = ()
    resume: str = ""
    head: str = ""
    signs: tuple[tuple[str, ...], ...] = ()

    def marks(self) -> list[str]:
        """All texts that are looked for."""
        return [*self.begin, *self.end, *self.cut, *self.frame]

    def open_after(self, prompt: str) -> bool:
        """Whether a rendered prompt leaves the model inside a reasoning block: its end decides, where it says
        anything about reasoning, as templates do that open or close the block for the model.
        """
        tail = prompt.rstrip()
        if any(tail.endswith(begin.rstrip()) for begin in self.begin):
            return True
        return self.always and not any(tail.endswith(end.rstrip()) for end in self.end)

    def inside(self, answer: str) -> bool:
        """Whether the beginning of an answer, which the model is to continue, ends inside a reasoning block."""
        last = max((answer.rfind(begin.rstrip()) for begin in self.begin), default=-1)
        return last > max((answer.rfind(end) for end in self.end), default=-1)
