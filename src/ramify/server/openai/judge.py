"""Generating rerankers: models that are shown a query and a document by their chat template, and say yes or no."""

from __future__ import annotations

import re

import jinja2
from jinja2 import meta

from ramify.server.openai.conversation import Quotes
from ramify.text.template import ChatTemplate
from ramify.text.tokenizer import Tokenizer

ROLES = ("query", "document")


def judges(template: ChatTemplate) -> bool:
    """Whether a template is one of a reranker: it reads `query` and `document`, or messages with these roles."""
    quoted = all(re.search(rf"""["']{role}["']""", template.source) for role in ROLES)
    return quoted or set(ROLES) <= meta.find_undeclared_variables(jinja2.Environment().parse(template.source))


class Judge:
    """Makes the prompts of one query. What users wrote stays text where it spells a control token; documents that make
    a prompt longer than `longest` tokens are cut where that is a number.
    """

    def __init__(
        self, template: ChatTemplate, tokenizer: Tokenizer, query: str, instruct: str | None, longest: int | None
    ) -> None:
        self._template, self._tokenizer = template, tokenizer
        self._query, self._instruct, self._longest = query, instruct, longest

    def prompt(self, document: str) -> list[int]:
        """Token ids."""
        tokens = self._tokens(document)
        if self._longest is None or len(tokens) <= self._longest:
            return tokens
        words = self._tokenizer.encode_as_text(document)
        kept = max(len(words) - (len(tokens) - self._longest) - 1, 0)  # what is cut may merge with what follows
        return self._tokens(self._tokenizer.decode(words[:kept]))

    def _tokens(self, document: str) -> list[int]:
        quotes = Quotes(self._tokenizer.control)
        pieces = quotes.split(self._render(quotes, document))
        tokens: list[int] = []
        for at, piece in enumerate(pieces):
            quoted = at % 2 == 1
            tokens += self._tokenizer.encode_as_text(piece) if quoted else self._tokenizer.encode(piece, False)
        return tokens

    def _render(self, quotes: Quotes, document: str) -> str:
        given = {"query": quotes.quote(self._query), "document": quotes.quote(document)}
        messages = [{"role": role, "content": text} for role, text in given.items()]
        instruct = None if self._instruct is None else quotes.quote(self._instruct)
        if instruct is not None:
            messages.insert(0, {"role": "system", "content": instruct})
        return self._template.render(messages, None, True, **given, instruct=instruct)
