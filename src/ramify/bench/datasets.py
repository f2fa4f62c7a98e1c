"""What is sent: conversations of one turn or more, made up or read from a file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import msgspec

from ramify.bench.backends import Content
from ramify.bench.options import DataOptions
from ramify.bench.words import Source
from ramify.core.errors import StartupError

FROM_USER = ("human", "user")
FORM = 'It should be a list of {"conversations": [{"from": "human", "value": "..."}, {"from": "gpt", "value": "..."}]}.'


@dataclass(frozen=True)
class Turn:
    """`input_len`: tokens of `content` by itself; None where nobody knows them."""

    content: Content
    input_len: int | None
    output_len: int


@dataclass(frozen=True)
class Conversation:
    """Turns that one user takes one after the other."""

    turns: tuple[Turn, ...]


@dataclass(frozen=True)
class Workload:
    """`about` says in a few words what it is; `notes` are what a reader of the results has to know. `shares`: its
    prompts may begin alike.
    """

    conversations: list[Conversation]
    about: str
    notes: list[str] = field(default_factory=list)
    shares: bool = True

    @property
    def requests(self) -> int:
        return sum(len(conversation.turns) for conversation in self.conversations)


def make(options: DataOptions, source: Source, seed: int, context: int | None) -> Workload:
    """The workload of `--dataset-name`; raises `StartupError` where it cannot fit `context` tokens."""
    return MAKERS[options.dataset_name](options, source, Random(seed), context)


def _one(content: Content, input_len: int | None, output_len: int) -> Conversation:
    return Conversation((Turn(content, input_len, output_len),))


def _must_fit(what: str, tokens: int, context: int | None) -> None:
    if context is not None and tokens > context:
        raise StartupError(
            f"{what} make {tokens} tokens, and the server's context has {context}", "Ask for shorter ones; see --help."
        )


def random_lengths(options: DataOptions, source: Source, random: Random, context: int | None) -> Workload:
    """Every prompt of its own, lengths from a range."""
    longest_in, longest_out = options.random_input_len, options.random_output_len
    _must_fit("prompt and output", longest_in + longest_out, context)
    made = []
    for _ in range(options.num_prompts):
        tokens = _drawn(random, longest_in, options.random_range_ratio)
        length = _drawn(random, longest_out, options.random_range_ratio)
        made.append(_one(source.more(random, None, tokens), tokens, length))
    least = options.random_range_ratio
    about = f"random, {_range(longest_in, least)} tokens in, {_range(longest_out, least)} out"
    return Workload(made, about, shares=False)


def _drawn(random: Random, longest: int, ratio: float) -> int:
    return random.randint(_shortest(longest, ratio), longest)


def _shortest(longest: int, ratio: float) -> int:
    return max(int(longest * ratio), 1)


def _range(longest: int, ratio: float) -> str:
    shortest = _shortest(longest, ratio)
    return f"{longest}" if shortest == longest else f"{shortest} to {longest}"


def shared_prefix(options: DataOptions, source: Source, random: Random, context: int | None) -> Workload:
    """Groups whose prompts begin alike, shuffled."""
    head, own, output = options.gsp_system_prompt_len, options.gsp_question_len, options.gsp_output_len
    _must_fit("system prompt, question and output", head + own + output, context)
    made = []
    for _ in range(options.gsp_num_groups):
        system = source.more(random, None, head)
        for _ in range(options.gsp_prompts_per_group):
            question = source.more(random, system, head + own)
            made.append(_one(system + question, head + own, output))  # type: ignore[operator]
    random.shuffle(made)
    shape = f"{options.gsp_num_groups} groups of {options.gsp_prompts_per_group}"
    return Workload(made, f"generated-shared-prefix, {shape}, {head} shared + {own} tokens in, {output} out")


def multi_turn(options: DataOptions, source: Source, random: Random, context: int | None) -> Workload:
    """Users who come back with everything that was said so far."""
    users, turns = options.multi_turn_num_users, options.multi_turn_num_turns
    tokens, output = options.multi_turn_input_len, options.multi_turn_output_len
    _must_fit(f"{turns} turns with their answers", turns * (tokens + output), context)
    made = [
        Conversation(tuple(Turn(source.more(random, None, tokens), tokens, output) for _ in range(turns)))
        for _ in range(users)
    ]
    return Workload(made, f"multi-turn, {users} users of {turns} turns, {tokens} tokens in per turn, {output} out")


def sharegpt(options: DataOptions, source: Source, random: Random, context: int | None) -> Workload:
    """The first question of each conversation, to be answered at the length of its answer."""
    assert options.dataset_path is not None, "checked with the options"
    pairs = read_sharegpt(Path(options.dataset_path))
    random.shuffle(pairs)
    made: list[Conversation] = []
    too_long = 0
    for question, answer in pairs:
        if len(made) == options.num_prompts:
            break
        length = options.sharegpt_output_len or max(source.count(answer), 1)
        tokens = source.count(question)
        if context is not None and tokens + length > context:
            too_long += 1
        else:
            made.append(_one(question, tokens if source.exact else None, length))
    if not made:
        raise StartupError(f"all {too_long} conversations of {options.dataset_path} are longer than the context")
    return Workload(made, f"sharegpt, {Path(options.dataset_path).name}", _sharegpt_notes(options, made, too_long))


def _sharegpt_notes(options: DataOptions, made: list[Conversation], too_long: int) -> list[str]:
    notes = []
    if too_long:
        notes.append(f"{too_long} conversations were left out: they are longer than the server's context")
    if len(made) < options.num_prompts:
        notes.append(f"the dataset gives {len(made)} requests, {options.num_prompts} were asked for")
    return notes


def read_sharegpt(path: Path) -> list[tuple[str, str]]:
    """The first question and its answer of each conversation that has both; raises `StartupError`."""
    try:
        found = msgspec.json.decode(path.read_bytes())
    except OSError as e:
        raise StartupError(f"--dataset-path {path}: {e.strerror}") from None
    except (ValueError, RecursionError) as e:
        raise StartupError(f"--dataset-path {path} is not JSON: {e}", FORM) from None
    entries = found if isinstance(found, list) else []
    pairs = [pair for entry in entries if (pair := _first_exchange(entry)) is not None]
    if not pairs:
        raise StartupError(f"--dataset-path {path} holds no conversation with a question and an answer", FORM)
    return pairs


def _first_exchange(entry: Any) -> tuple[str, str] | None:
    turns = entry.get("conversations", entry.get("conversation")) if isinstance(entry, dict) else None
    turns = turns if isinstance(turns, list) else []
    said = [turn for turn in turns if isinstance(turn, dict) and isinstance(turn.get("value"), str)]
    for asked, answered in pairwise(said):
        if asked.get("from") in FROM_USER and answered.get("from") not in FROM_USER:
            return (asked["value"], answered["value"]) if asked["value"] and answered["value"] else None
    return None


MAKERS: dict[str, Callable[[DataOptions, Source, Random, int | None], Workload]] = {
    "random": random_lengths,
    "sharegpt": sharegpt,
    "generated-shared-prefix": shared_prefix,
    "multi-turn": multi_turn,
}
