"""Write the training and evaluation data: chats from every source, rendered by the chat template and tokenized.

Usage: python scripts/concierge/prepare.py [--text FOLDER] [--work FOLDER] [--rounds 4]

Every round passes once over all task dialogues with newly drawn values and adds freshly written chats of the other
kinds.
"""

from __future__ import annotations

import argparse
import json
import os
import random
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import corpus
import dialogues
import drills
import jsontasks
import numpy as np
import phrases
import stories
import tooltasks
from chat import MARKER_TOKENS, SPECIAL_TOKENS, Message, Tool, render, system
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

VOCABULARY = 4096
MAX_TOKENS = 2048
# What a token is part of; training weighs the classes differently.
STRUCTURE, USER, RESULT, ASSISTANT, PLAIN = range(5)
# Chats per round beside the task dialogues.
COUNTS = {"tools": 5500, "json": 4000, "small_talk": 8000, "built_story": 3500}
# A lower-case word takes the space, apostrophe or underscore before it along; a capitalised word and a digit stand
# alone. So a name is the same tokens in a sentence and inside the quotes of a call, and copying it is copying tokens.
SPLIT = (
    r"[ '_]?\p{Ll}+| I(?!\p{L})|\p{Lu}\p{Ll}+|\p{Lu}+(?!\p{Ll})|\p{L}|\p{N}| ?[^\s\p{L}\p{N}]+|[\r\n]+|\s+(?!\S)|\s+"
)

Source = Iterator[tuple[str, str]]


def chat_text(messages: list[Message], tools: list[Tool] | None = None) -> str:
    """Return a finished chat as training text."""
    return render(messages, tools or None)


def small_talk(rng: random.Random, pairs: list[tuple[str, str]]) -> list[Message]:
    """Return a chat of one to four small exchanges."""
    makers: list[tuple[Callable[[random.Random], list[Message]], int]] = [
        (phrases.greeting, 6), (phrases.persona, 9), (phrases.thanks, 2), (phrases.farewell, 2), (phrases.decline, 6),
        (phrases.capital, 5), (phrases.fact, 4), (phrases.addition, 4), (phrases.joke, 2), (phrases.counting, 3),
        (phrases.listing, 3), (phrases.repeat, 4), (phrases.poem, 2), (phrases.remember, 4),
        (phrases.small_pair(pairs), 2),
    ]  # fmt: skip
    messages: list[Message] = []
    for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 4))):
        maker = rng.choices([m for m, _ in makers], [w for _, w in makers])[0]
        messages += maker(rng)
    prompt = phrases.system_prompt(rng, 0.35)
    return [system(prompt), *messages] if prompt else messages


def story_chat(rng: random.Random, story: str, found: list[str]) -> list[Message]:
    """Return a chat about a story, sometimes with a greeting, thanks or a system prompt around it."""
    messages = stories.request(story, found, rng)
    if rng.random() < 0.15:
        messages = phrases.greeting(rng) + messages
    if rng.random() < 0.2:
        messages += phrases.thanks(rng)
    prompt = phrases.system_prompt(rng, 0.35)
    return [system(prompt), *messages] if prompt else messages


def round_of_texts(folder: Path, rng: random.Random, number: int, rounds: int) -> Source:
    """Yield (kind, text) of everything in one round."""
    train, _ = corpus.read_dialogues(folder)
    services = corpus.read_services(folder)
    pairs = corpus.read_small_talk(folder)
    for dialogue in train:
        messages, tools = dialogues.augmented(dialogue, services, rng)
        yield ("dialogue with tools" if tools else "dialogue"), chat_text(messages, tools)
    for _ in range(COUNTS["tools"]):
        yield "everyday tools", chat_text(*tooltasks.make(rng))
    for _ in range(COUNTS["json"]):
        yield "json", chat_text(jsontasks.make(rng))
    for _ in range(COUNTS["small_talk"]):
        yield "small talk", chat_text(small_talk(rng, pairs))
    for _ in range(COUNTS["built_story"]):
        yield "built story", chat_text(story_chat(rng, *stories.built_story(rng)))
    for story in corpus.read_stories(folder)[0]:
        yield "story, plain", stories.rename_characters(story, rng) + SPECIAL_TOKENS[0]
        for _ in range(2):
            yield "story, asked for", chat_text(story_chat(rng, *stories.real_story(story, rng)))
    for index, piece in enumerate(corpus.read_books(folder)):
        if index % rounds == number:
            yield "book", piece + SPECIAL_TOKENS[0]


def train_tokenizer(texts: list[str]) -> Tokenizer:
    """Train the byte-level BPE tokenizer."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    added = len(SPECIAL_TOKENS) + len(MARKER_TOKENS)
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - added,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    markers = [*SPECIAL_TOKENS, *MARKER_TOKENS]
    tokenizer.train_from_iterator((_without(text, markers) for text in texts), trainer)
    tokenizer.add_special_tokens(SPECIAL_TOKENS)
    tokenizer.add_tokens([AddedToken(token, normalized=False, special=False) for token in MARKER_TOKENS])
    if tokenizer.get_vocab_size() != VOCABULARY:
        raise ValueError(f"the tokenizer has {tokenizer.get_vocab_size()} tokens")
    return tokenizer


def _without(text: str, markers: list[str]) -> str:
    """Return a text without control tokens, which must not become ordinary vocabulary."""
    for marker in markers:
        text = text.replace(marker, "")
    return text


class Labeller:
    """Finds out what every token of a document is part of."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.start = tokenizer.token_to_id("<|im_start|>")
        self.end = tokenizer.token_to_id("<|im_end|>")
        self.result = tokenizer.token_to_id("<tool_response>")
        self.roles = {
            tuple(tokenizer.encode(f"{role}\n").ids): label
            for role, label in (("system", STRUCTURE), ("user", USER), ("assistant", ASSISTANT))
        }

    def labels(self, ids: list[int]) -> list[int]:
        """Return the class of every token; turn headers and the newline after a turn count as structure."""
        if ids[0] != self.start:
            return [PLAIN] * len(ids)
        labels = [STRUCTURE] * len(ids)
        position = 0
        while position < len(ids):
            header, label = self._header(ids, position + 1)
            body = position + 1 + header
            if label == USER and ids[body] == self.result:
                label = RESULT
            end = ids.index(self.end, body)
            labels[body : end + 1] = [label] * (end + 1 - body)
            position = end + 2
        return labels

    def _header(self, ids: list[int], position: int) -> tuple[int, int]:
        """Return the length of a turn's role line and the class of the turn."""
        for tokens, label in self.roles.items():
            if tuple(ids[position : position + len(tokens)]) == tokens:
                return len(tokens), label
        raise ValueError("a turn without a known role")


class Shard:
    """Collects documents and writes them as three flat arrays."""

    def __init__(self) -> None:
        self.tokens: list[np.ndarray] = []
        self.labels: list[np.ndarray] = []

    def add(self, ids: list[int], labels: list[int]) -> None:
        """Add one document."""
        self.tokens.append(np.array(ids, dtype=np.uint16))
        self.labels.append(np.array(labels, dtype=np.uint8))

    def save(self, stem: Path) -> None:
        """Write tokens, classes and document borders; a run that still reads older files is not disturbed."""
        borders = np.cumsum([0, *map(len, self.tokens)]).astype(np.int64)
        arrays = {"tokens": np.concatenate(self.tokens), "labels": np.concatenate(self.labels), "borders": borders}
        for name, array in arrays.items():
            temporary = stem.with_suffix(f".{name}.part.npy")
            np.save(temporary, array)
            os.replace(temporary, stem.with_suffix(f".{name}.npy"))


def write_training(folder: Path, work: Path, tokenizer: Tokenizer, rounds: int, seed: int) -> dict[str, Any]:
    """Write the training data, rounds in order, documents shuffled inside each round; return statistics."""
    labeller, shard = Labeller(tokenizer), Shard()
    documents: Counter[str] = Counter()
    tokens: Counter[str] = Counter()
    too_long = 0
    for number in range(rounds):
        rng = random.Random(seed + number)
        texts = list(round_of_texts(folder, rng, number, rounds))
        rng.shuffle(texts)
        encoded = tokenizer.encode_batch([text for _, text in texts])
        for (kind, _), encoding in zip(texts, encoded, strict=True):
            if len(encoding.ids) > MAX_TOKENS:
                too_long += 1
                continue
            shard.add(encoding.ids, labeller.labels(encoding.ids))
            documents[kind] += 1
            tokens[kind] += len(encoding.ids)
        print(f"round {number + 1}: {sum(documents.values())} documents, {sum(tokens.values())} tokens", flush=True)
    shard.save(work / "train")
    return {"documents": dict(documents), "tokens": dict(tokens), "dropped_as_too_long": too_long}


def write_drills(stem: Path, tokenizer: Tokenizer, count: int, seed: int) -> int:
    """Write copying drills; what cannot be predicted in them carries no loss. Return the number of tokens."""
    shard, rng = Shard(), random.Random(seed)
    for _ in range(count):
        first, rest = (tokenizer.encode(part).ids for part in drills.drill(rng))
        end = tokenizer.token_to_id(SPECIAL_TOKENS[0])
        if len(first) + len(rest) < MAX_TOKENS:
            shard.add([*first, *rest, end], [STRUCTURE] * len(first) + [PLAIN] * (len(rest) + 1))
    shard.save(stem)
    return sum(map(len, shard.tokens))


def write_held_out(folder: Path, work: Path, tokenizer: Tokenizer) -> dict[str, int]:
    """Write the held-out dialogues (as chats) and stories (as they are) for evaluation."""
    services = corpus.read_services(folder)
    chats = [dialogues.plain(dialogue, services) for dialogue in corpus.read_dialogues(folder)[1]]
    tales = corpus.read_stories(folder)[1]
    labeller = Labeller(tokenizer)
    for name, texts in (
        ("dialogues", [chat_text(*c) for c in chats]),
        ("stories", [t + SPECIAL_TOKENS[0] for t in tales]),
    ):
        shard = Shard()
        for encoding in tokenizer.encode_batch(texts):
            if len(encoding.ids) <= MAX_TOKENS:
                shard.add(encoding.ids, labeller.labels(encoding.ids))
        shard.save(work / f"held_out_{name}")
    lines = [json.dumps({"messages": messages, "tools": tools}) for messages, tools in chats]
    (work / "held_out_chats.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return {"dialogues": len(chats), "stories": len(tales)}


def check_prefix(tokenizer: Tokenizer, folder: Path) -> int:
    """Check that every prompt that a server renders is a token prefix of the finished chat; return how many."""
    services = corpus.read_services(folder)
    checked = 0
    for dialogue in corpus.read_dialogues(folder)[1][:60]:
        messages, tools = dialogues.plain(dialogue, services)
        whole = tokenizer.encode(chat_text(messages, tools)).ids
        for index, message in enumerate(messages):
            if message["role"] == "assistant":
                prompt = tokenizer.encode(render(messages[:index], tools or None, add_generation_prompt=True)).ids
                if whole[: len(prompt)] != prompt:
                    raise ValueError("a prompt is not a prefix of the training text")
                checked += 1
    return checked


def main() -> None:
    """Write tokenizer, training data and held-out data."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--text", type=Path, default=corpus.DEFAULT_TEXT, help="folder with the shared texts")
    parser.add_argument("--work", type=Path, default=corpus.DEFAULT_WORK, help="folder for data and checkpoints")
    parser.add_argument("--rounds", type=int, default=4, help="passes over the task dialogues")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    path = options.work / "tokenizer.json"
    if not path.exists():
        sample = list(round_of_texts(options.text, random.Random(options.seed), 0, 2))
        train_tokenizer([text for _, text in sample]).save(str(path))
    tokenizer = Tokenizer.from_file(str(path))
    print("prompts checked:", check_prefix(tokenizer, options.text), flush=True)
    held = write_held_out(options.text, options.work, tokenizer)
    statistics = write_training(options.text, options.work, tokenizer, options.rounds, options.seed)
    statistics["held_out"] = held
    statistics["drill_tokens"] = write_drills(options.work / "drills", tokenizer, 20_000, options.seed)
    write_drills(options.work / "held_out_drills", tokenizer, 100, options.seed + 1_000_000)
    (options.work / "data.json").write_text(json.dumps(statistics, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(statistics, indent=2))


if __name__ == "__main__":
    main()
