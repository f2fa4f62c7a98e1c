"""A model that recites: whatever its prompt ends with decides what it says, to the letter.

Every token has one successor, written into the weights: embeddings are unit vectors, the layer adds nothing, and the
output matrix has a one where a token follows another. So real servers can be asked about any text a model might write.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

END = "<|end|>"
TEMPLATE = "{{ messages[-1].content }}"
HEADS, HEAD = 8, 64
HIDDEN = HEADS * HEAD


def reciter(folder: Path, scripts: Mapping[str, str], specials: tuple[str, ...] = ()) -> Path:
    """A folder with such a model. `scripts` maps the last user message to the answer, both ASCII; `specials` are
    control tokens that may occur in answers.
    """
    folder.mkdir(parents=True)
    seen: set[str] = {END, *specials}
    lines = [[prompt, *_chunks(script, seen, specials), END] for prompt, script in scripts.items()]
    tokenizer = _tokenizer(lines, specials)
    tokenizer.save(str(folder / "tokenizer.json"))
    follows = {
        tokenizer.token_to_id(one): tokenizer.token_to_id(next_)
        for line in lines
        for one, next_ in itertools.pairwise(line)
    }
    end, size = tokenizer.token_to_id(END), tokenizer.get_vocab_size()
    _write(folder / "config.json", _config(size, end))
    _write(folder / "tokenizer_config.json", {"chat_template": TEMPLATE, "eos_token": END})
    save_file(_weights(size, follows), folder / "model.safetensors")
    return folder


def _write(path: Path, value: object) -> None:
    path.write_text(json.dumps(value))


def _chunks(script: str, seen: set[str], specials: tuple[str, ...]) -> Iterator[str]:
    """Pieces none of which was there before."""
    for text in re.split("(" + "|".join(map(re.escape, specials)) + ")" if specials else r"(?!)", script):
        if text in specials:
            assert f"used {text}" not in seen, "a control token has one successor in all scripts"
            seen.add(f"used {text}")
            yield text
        elif text:
            yield from _pieces(text, seen)


def _pieces(text: str, seen: set[str]) -> Iterator[str]:
    """The last is as long as it has to be, by what came before it."""
    found: list[str] = []
    at = 0
    while at < len(text):
        end = next((n for n in range(at + 3, len(text)) if text[at:n] not in seen), len(text))
        found.append(text[at:end])
        if end < len(text):
            seen.add(text[at:end])
        at = end
    while found[-1] in seen:
        found[-2:] = ["".join(found[-2:])]
    seen.add(found[-1])
    yield from found


def _tokenizer(lines: list[list[str]], specials: tuple[str, ...]) -> Tokenizer:
    alphabet = {character: index for index, character in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=alphabet, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([END, *specials])
    common = [piece for line in lines for piece in line[:-1] if piece not in specials]
    tokenizer.add_tokens([AddedToken(piece, normalized=False) for piece in common])
    return tokenizer


def _config(size: int, end: int) -> dict[str, object]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": HIDDEN,
        "intermediate_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS,
        "head_dim": HEAD,
        "vocab_size": size,
        "max_position_embeddings": 1024,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": False,
        "eos_token_id": end,
        "bos_token_id": None,
        "torch_dtype": "float32",
    }


def _weights(size: int, follows: Mapping[int, int]) -> dict[str, np.ndarray]:
    assert size <= HIDDEN
    embed, head = np.eye(size, HIDDEN, dtype=np.float32), np.zeros((size, HIDDEN), np.float32)
    for one, next_ in follows.items():
        head[next_, one] = 1
    square, wide = np.zeros((HIDDEN, HIDDEN), np.float32), np.zeros((8, HIDDEN), np.float32)
    layer = "model.layers.0."
    weights = {
        "model.embed_tokens.weight": embed,
        "lm_head.weight": head,
        "model.norm.weight": np.ones(HIDDEN, np.float32),
        f"{layer}input_layernorm.weight": np.ones(HIDDEN, np.float32),
        f"{layer}post_attention_layernorm.weight": np.ones(HIDDEN, np.float32),
        f"{layer}mlp.gate_proj.weight": wide,
        f"{layer}mlp.up_proj.weight": wide.copy(),
        f"{layer}mlp.down_proj.weight": wide.T.copy(),
    }
    return weights | {f"{layer}self_attn.{name}_proj.weight": square.copy() for name in "qkvo"}
