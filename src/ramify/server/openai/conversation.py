"""From the messages of a request to a prompt: what both `/v1/chat/completions` and `/v1/tokenize` do first."""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Protocol

import msgspec

from ramify.core.convert import convert
from ramify.core.errors import BadRequest
from ramify.server.ask import tokenize
from ramify.server.state import State
from ramify.text.template import ChatTemplate

MAX_MESSAGES = 4096
MAX_TOOLS = 1024
RESERVED = ("messages", "tools", "add_generation_prompt", "bos_token", "eos_token", "tokenize")


class RequestFunctionCall(msgspec.Struct, kw_only=True):
    """`arguments` are a JSON text, as OpenAI's clients send them, or the object itself."""

    name: str
    arguments: str | dict[str, Any] | None = None


class RequestToolCall(msgspec.Struct, kw_only=True):
    """A call that the assistant made earlier."""

    function: RequestFunctionCall
    id: str | None = None
    type: str = "function"


class RequestMessage(msgspec.Struct, kw_only=True):
    """What is checked of one turn. All its keys, known here or not, reach the template, which may read any of them."""

    role: str
    content: str | list[dict[str, Any]] | None = None
    name: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[RequestToolCall] | None = None
    tool_call_id: str | None = None


class Function(msgspec.Struct, kw_only=True):
    """A function that the model may call; `parameters` is a JSON schema, `strict` holds the arguments to it."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | bool | None = None
    strict: bool | None = None


class Tool(msgspec.Struct, kw_only=True):
    function: Function
    type: str = "function"


class Reasoning(msgspec.Struct, kw_only=True):
    """SGLang's `reasoning`: `enabled` turns thinking on or off where the template can, `effort` is passed to it."""

    effort: str | None = None
    enabled: bool | None = None


class Thinking(msgspec.Struct, kw_only=True):
    """`thinking` as Anthropic and DeepSeek write it."""

    type: Literal["enabled", "disabled", "adaptive"]


MESSAGES = Annotated[list[RequestMessage], msgspec.Meta(min_length=1, max_length=MAX_MESSAGES)]
TOOLS = Annotated[list[Tool], msgspec.Meta(max_length=MAX_TOOLS)]


class Conversation(Protocol):
    """The fields of a request that make its prompt."""

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] | None
    tool_choice: str | dict[str, Any] | None
    chat_template_kwargs: dict[str, Any] | None
    continue_final_message: bool
    reasoning_effort: str | None
    reasoning: Reasoning | None
    thinking: bool | Thinking | None


def template_of(state: State) -> ChatTemplate:
    """The model's; a base model has none."""
    if state.template is None:
        raise BadRequest(
            f"{state.resolved.served_name} has no chat template: it is a base model. Use /v1/completions, or start the "
            "server with --chat-template FILE.",
            param="messages",
            code="no_chat_template",
        )
    return state.template


async def encode(state: State, asked: Conversation, add_generation_prompt: bool = True) -> tuple[str, list[int]]:
    """The prompt of a conversation and its token ids.

    What a user, a system prompt or a tool wrote is text: where it spells a control token of the model it does not
    become one. Such spots are kept out of the template's way and out of the tokenizer's.
    """
    quotes = Quotes(state.words().control)
    prompt = await state.off_loop(render, template_of(state), asked, add_generation_prompt, quotes)
    if not quotes.texts:
        (tokens,) = await tokenize(state, [prompt], add_special_tokens=False)
        return prompt, tokens
    pieces = quotes.split(prompt)
    plain = await tokenize(state, pieces[::2], add_special_tokens=False)
    quoted = await state.off_loop(lambda: [state.words().encode_as_text(text) for text in pieces[1::2]])
    tokens = list(plain[0])
    for text, after in zip(quoted, plain[1:], strict=True):
        tokens += [*text, *after]
    return "".join(pieces), tokens


class Quotes:
    """Stands a mark in the place of every control token that is spelled in somebody's text."""

    def __init__(self, control: Sequence[str]) -> None:
        self.texts: list[str] = []
        self._mark = f"\uf8f0{secrets.token_hex(4)}:"
        self._spelled = (
            re.compile("|".join(map(re.escape, sorted(control, key=len, reverse=True)))) if control else None
        )

    def quote(self, text: str) -> str:
        return text if self._spelled is None else self._spelled.sub(self._keep, text)

    def _keep(self, found: re.Match[str]) -> str:
        self.texts.append(found[0])
        return f"{self._mark}{len(self.texts) - 1}\uf8f1"

    def split(self, prompt: str) -> list[str]:
        """Text of the template and quoted text in turns."""
        pieces = re.split(f"{self._mark}(\\d+)\uf8f1", prompt)
        return [self.texts[int(piece)] if number % 2 else piece for number, piece in enumerate(pieces)]


NO_QUOTES = Quotes(())
WRITTEN_BY_THE_MODEL = "assistant"


def render(
    template: ChatTemplate, asked: Conversation, add_generation_prompt: bool = True, quotes: Quotes = NO_QUOTES
) -> str:
    """The prompt; what is not text in the messages is refused by name.

    With `continue_final_message` the last message, the assistant's, is what the answer begins with.
    """
    messages = plain_messages(asked.messages)
    for message in messages:
        if message["role"] != WRITTEN_BY_THE_MODEL:
            message["content"] = quotes.quote(message["content"])
    more = template_arguments(asked)
    tools = None if asked.tool_choice == "none" else asked.tools
    if not asked.continue_final_message:
        return template.render(messages, tools or None, add_generation_prompt, **more)
    last = messages.pop()
    if last["role"] != "assistant" or not messages or last.get("tool_calls"):
        raise BadRequest(
            "continue_final_message continues a message of the assistant, after at least one other", param="messages"
        )
    return template.render(messages, tools or None, True, **more) + str(last["content"])


def template_arguments(asked: Conversation) -> dict[str, Any]:
    """What the template is given beside the messages. `reasoning_effort: none` is thinking turned off."""
    more = dict(asked.chat_template_kwargs or {})
    for name in RESERVED:
        if name in more:
            raise BadRequest(f"chat_template_kwargs may not set {name}", param="chat_template_kwargs")
    reasoning = asked.reasoning or Reasoning()
    effort = asked.reasoning_effort or reasoning.effort
    thinks = False if effort == "none" else reasoning.enabled
    if asked.thinking is not None:
        thinks = asked.thinking if isinstance(asked.thinking, bool) else asked.thinking.type != "disabled"
    if effort is not None:
        more.setdefault("reasoning_effort", effort)
    if thinks is not None:
        more.setdefault("enable_thinking", thinks)  # Qwen, GLM
        more.setdefault("thinking", thinks)  # DeepSeek, Kimi
    return more


def plain_messages(given: list[dict[str, Any]]) -> list[dict[str, Any]]:
    if not given:
        raise BadRequest("messages is an empty list", param="messages")
    if len(given) > MAX_MESSAGES:
        raise BadRequest(f"at most {MAX_MESSAGES} messages", param="messages")
    return [_plain(f"messages[{number}]", message) for number, message in enumerate(given)]


def text_of(message: dict[str, Any]) -> str:
    """The content of a message that was checked."""
    return str(_plain("messages", message)["content"])


def _plain(where: str, given: dict[str, Any]) -> dict[str, Any]:
    """A message as templates expect it: its content one text, the arguments of its calls objects."""
    message = convert(given, RequestMessage, where)
    content = message.content
    if isinstance(content, list):
        content = "".join(_text(f"{where}.content[{place}]", part) for place, part in enumerate(content))
    plain = {key: value for key, value in given.items() if value is not None}
    plain["content"] = content if content is not None else ""
    if message.tool_calls:
        calls = enumerate(zip(message.tool_calls, given["tool_calls"], strict=True))
        plain["tool_calls"] = [
            {**raw, "type": call.type, "function": _called(call.function, f"{where}.tool_calls[{place}]")}
            for place, (call, raw) in calls
        ]
    return plain


def _called(function: RequestFunctionCall, where: str) -> dict[str, Any]:
    """Templates write the arguments as JSON themselves: give them the object."""
    arguments: Any = function.arguments
    if isinstance(arguments, str):
        try:
            arguments = msgspec.json.decode(arguments or "{}")
        except msgspec.DecodeError:
            arguments = function.arguments
        except RecursionError:
            raise BadRequest(f"{where}.function.arguments are nested too deeply", param=where) from None
    return {"name": function.name, "arguments": {} if arguments is None else arguments}


def _text(where: str, part: dict[str, Any]) -> str:
    if part.get("type") not in ("text", "input_text", "refusal"):
        raise BadRequest(f"{where}: only text can be read, not {part.get('type')!r}", param=where)
    text = part.get("refusal" if part["type"] == "refusal" else "text")
    if not isinstance(text, str):
        raise BadRequest(f"{where}.text should be a string", param=f"{where}.text")
    return text


def read_tools(given: list[dict[str, Any]] | None) -> list[Tool]:
    """The functions that may be called, checked; their names are unique."""
    tools = [convert(tool, Tool, f"tools[{number}]") for number, tool in enumerate(given or ())]
    if len(tools) > MAX_TOOLS:
        raise BadRequest(f"at most {MAX_TOOLS} tools, got {len(tools)}", param="tools")
    names = [tool.function.name for tool in tools]
    for name in names:
        if not name or len(name) > 256:
            raise BadRequest("a tool's function needs a name of 1 to 256 characters", param="tools")
        if names.count(name) > 1:
            raise BadRequest(f"two tools have the name {name!r}", param="tools")
    if any(tool.type != "function" for tool in tools):
        raise BadRequest("only tools of type 'function' are known", param="tools")
    return tools
