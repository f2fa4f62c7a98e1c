"""Which tool-call format a model has, by its chat template."""

from __future__ import annotations

from collections.abc import Iterable

from ramify.text.reasoning.detect import most_specific
from ramify.text.tools.format import ToolFormat
from ramify.text.tools.registry import TOOL_FORMATS


def detect_tools(template: str, special_tokens: Iterable[str] = ()) -> ToolFormat | None:
    """From the source of a chat template; None if it knows nothing of tools.

    `special_tokens` of the tokenizer, by their text, decide where the template takes tools and does not say how they
    are called.
    """
    if "tool" not in template and "function" not in template:
        return None
    formats = [TOOL_FORMATS[name] for name in TOOL_FORMATS]
    return most_specific(formats, template) or most_specific(formats, "\n".join(special_tokens))
