"""What a model is for: by its architecture, by the files of sentence-transformers beside it, and by --is-embedding.

Qwen3ForCausalLM                               generates, or embeds where modules.json or the flag says so
Qwen3Model, BertModel, BertForMaskedLM         embeds
Qwen3ForSequenceClassification                 classifies
Qwen2ForRewardModel, Qwen2ForProcessRewardModel    rewards, at the end or at every step
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import msgspec

from ramify.config.encoder import is_encoder, parse_encoder
from ramify.config.fields import positive
from ramify.config.head import Activation, Classifier, Dense, Head, PoolingMode, Squash
from ramify.config.model import MAX_CONFIG_BYTES, ModelConfig, architecture_of, read_config, read_json
from ramify.core.errors import StartupError

GENERATES = ("ForCausalLM", "LMHeadModel", "")  # the last is no ending that is known here: its family may be
CLASSIFIES = "ForSequenceClassification"
REWARDS, STEPS = "ForRewardModel", "ForProcessRewardModel"
ENDINGS = (*GENERATES[:-1], CLASSIFIES, STEPS, REWARDS, "ForMaskedLM", "EmbeddingModel", "Model")
MODULES, PROMPTS, LIMITS = "modules.json", "config_sentence_transformers.json", "sentence_bert_config.json"
MAX_MODULES = 32
STEP = "<extra_0>"  # what Qwen's process reward models have behind every step
CLASSIFIERS: dict[str, Classifier] = {
    "Bert": "bert",
    "Roberta": "roberta",
    "XLMRoberta": "roberta",
    "Camembert": "roberta",
    "ModernBert": "modernbert",
}
MODES: dict[str, PoolingMode] = {  # sentence-transformers' names, in the order in which it puts them together
    "cls": "cls",
    "max": "max",
    "mean": "mean",
    "mean_sqrt_len_tokens": "mean_sqrt_len",
    "weightedmean": "weighted_mean",
    "lasttoken": "last",
}
OLD_MODES = {  # its old names for the same
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
FUNCTIONS: dict[str, Activation] = {
    "Identity": "identity",
    "Tanh": "tanh",
    "ReLU": "relu",
    "GELU": "gelu",
    "Sigmoid": "sigmoid",
    "SiLU": "silu",
}


def read_model(folder: Path, is_embedding: bool = False) -> ModelConfig:
    """The configuration in `folder`, with what is computed of its hidden states where that is not tokens."""
    raw = read_json(folder / "config.json", "a config.json, as transformers saves it")
    architecture = architecture_of(raw)
    base, _ = split(architecture)
    config = parse_encoder(base, architecture, raw) if is_encoder(base) else read_config(folder)
    return with_head(folder, config, is_embedding)


def with_head(folder: Path, config: ModelConfig, is_embedding: bool) -> ModelConfig:
    """With what is computed of its hidden states; as it is where that is tokens."""
    base, ending = split(config.architecture)
    if ending in GENERATES and not (config.encoder or is_embedding or (folder / MODULES).is_file()):
        return config
    head = _head(folder, config, base, ending, is_embedding)
    return config if head is None else replace(config, head=head, tied=True)


def split(architecture: str) -> tuple[str, str]:
    """The name of what computes hidden states, and of what is done with them: ("Qwen3", "ForCausalLM")."""
    for ending in ENDINGS:
        if architecture.endswith(ending) and architecture != ending:
            return architecture.removesuffix(ending), ending
    return architecture, ""


def attends_both_ways(architecture: str, raw: Mapping[str, Any]) -> bool:
    """Whether a decoder was made an encoder of, by its configuration."""
    base, _ = split(architecture)
    return not is_encoder(base) and (raw.get("is_causal") is False or bool(raw.get("use_bidirectional_attention")))


def _head(folder: Path, config: ModelConfig, base: str, ending: str, is_embedding: bool) -> Head | None:
    if config.encoder is None and attends_both_ways(config.architecture, config.raw):
        raise StartupError(
            f"this {config.architecture} attends in both directions, and of native code only encoders do",
            "Leave out --model-impl native: transformers' code can compute it.",
        )
    if ending == CLASSIFIES:
        return _classifier(config, base)
    if ending in (REWARDS, STEPS):
        return _reward(folder, config, ending == STEPS)
    embeds = is_embedding or config.encoder is not None or ending not in GENERATES
    return _embedder(folder, config, embeds)


# -- classes and rewards -----------------------------------------------------------------------------------------------


def _classifier(config: ModelConfig, base: str) -> Head:
    labels = _labels(config.raw)
    kind: Classifier = "score"
    if config.generic is not None:
        kind = "own"
    elif config.encoder is not None:
        if base not in CLASSIFIERS:
            raise StartupError(f"the classifier of {config.architecture} is not supported")
        kind = CLASSIFIERS[base]
    pooling: PoolingMode = "cls" if config.encoder is not None else "last"
    if kind == "modernbert" and config.raw.get("classifier_pooling", "cls") == "mean":
        pooling = "mean"
    squash = _squash(config.raw, len(labels))
    return Head("classify", (pooling,), len(labels), classifier=kind, labels=labels, squash=squash)


def _labels(raw: Mapping[str, Any]) -> tuple[str, ...]:
    """By number. transformers writes none where there are two, and LABEL_0 and so on where they have no names."""
    named = raw.get("id2label")
    if not isinstance(named, dict) or not named:
        count = positive(dict(raw), "num_labels", 2)
        return tuple(f"LABEL_{at}" for at in range(count))
    try:
        by_number = {int(at): str(name) for at, name in named.items()}
    except ValueError:
        raise StartupError("config.json: the keys of id2label should be numbers") from None
    if sorted(by_number) != list(range(len(by_number))):
        raise StartupError("config.json: id2label should name the classes 0, 1, 2, ... without gaps")
    return tuple(by_number[at] for at in range(len(by_number)))


def _squash(raw: Mapping[str, Any], labels: int) -> Squash:
    """What sentence-transformers makes of logits: as the configuration says, or a sigmoid of a single one."""
    named = raw.get("sentence_transformers")
    asked = (named.get("activation_fn") if isinstance(named, dict) else None) or raw.get(
        "sbert_ce_default_activation_function"
    )
    if asked is None:
        return "sigmoid" if labels == 1 else "identity"
    name = str(asked).rpartition(".")[2]
    if name not in ("Identity", "Sigmoid", "Softmax"):
        raise StartupError(f"config.json: the activation {asked!r} of a cross-encoder is not supported")
    return cast(Squash, name.lower())


def _reward(folder: Path, config: ModelConfig, steps: bool) -> Head:
    if not steps:
        return Head("reward", ("last",), 1, classifier="mlp_score")
    return Head("reward", ("steps",), positive(config.raw, "num_labels", 2), "mlp_score", step=_step(folder, config))


def _step(folder: Path, config: ModelConfig) -> int:
    """The token that ends a step: by number in config.json, or by its spelling in the tokenizer's."""
    if config.raw.get("step_token_id") is not None:
        return positive(config.raw, "step_token_id")
    file = folder / "tokenizer_config.json"
    named = read_json(file, "a tokenizer config").get("added_tokens_decoder") if file.is_file() else None
    for number, token in named.items() if isinstance(named, dict) else ():
        if isinstance(token, dict) and token.get("content") == STEP and str(number).isdecimal():
            return int(number)
    raise StartupError(
        f"nothing says which token ends a step of {config.architecture}",
        f'Put its id into config.json as "step_token_id", or {STEP} among the tokens of tokenizer_config.json.',
    )


# -- embeddings, as sentence-transformers saves them -------------------------------------------------------------------


class Module(msgspec.Struct):
    """One of modules.json."""

    type: str
    path: str = ""
    idx: int = 0


def _embedder(folder: Path, config: ModelConfig, embeds: bool) -> Head | None:
    """By modules.json. Without one the mean of what an encoder gives, or what a decoder gives last, normalised."""
    kinds = _modules(folder)
    if "LogitScore" in (kind for kind, _ in kinds) and not embeds:
        return None  # a causal reranker: it generates
    head = Head("embed", ("mean",) if config.encoder is not None else ("last",), config.hidden, normalize=not kinds)
    for kind, path in kinds:
        head = _with_module(head, folder, config, kind, path)
    named, limits = _optional(folder / PROMPTS), _optional(folder / LIMITS)
    prompts = named.get("prompts") or {}
    if not isinstance(prompts, dict) or not all(isinstance(text, str) for text in prompts.values()):
        raise StartupError(f"{folder / PROMPTS}: prompts should be texts by name")
    default = named.get("default_prompt_name")
    if default is not None and default not in prompts:
        raise StartupError(f"{folder / PROMPTS}: default_prompt_name {default!r} is none of its prompts")
    return replace(
        head,
        prompts=dict(prompts),
        prompt=default,
        longest=positive(limits, "max_seq_length") if limits.get("max_seq_length") is not None else None,
        lower=limits.get("do_lower_case") is True,
        dimensions=_dimensions(config.raw),
    )


def _modules(folder: Path) -> list[tuple[str, str]]:
    """The kind and the folder of each, in order."""
    file = folder / MODULES
    if not file.is_file():
        return []
    if file.stat().st_size > MAX_CONFIG_BYTES:
        raise StartupError(f"{file} is over {MAX_CONFIG_BYTES >> 20} MiB", "That is no list of modules.")
    try:
        found = msgspec.json.decode(file.read_bytes(), type=list[Module])
    except (msgspec.MsgspecError, RecursionError) as e:
        raise StartupError(f"{file} is no list of modules: {e}", "Copy or download it again.") from None
    if len(found) > MAX_MODULES:
        raise StartupError(f"{file} names {len(found)} modules, at most {MAX_MODULES} make sense")
    return [(module.type.rpartition(".")[2], module.path) for module in sorted(found, key=lambda m: m.idx)]


def _with_module(head: Head, folder: Path, config: ModelConfig, kind: str, path: str) -> Head:
    if ".." in Path(path).parts or Path(path).is_absolute():
        raise StartupError(f"{MODULES}: {path!r} leads out of the model's folder")
    if kind == "Transformer" and path in ("", "."):
        return head
    if head.normalize and kind != "Normalize":
        raise StartupError(f"{MODULES} has a module {kind!r} behind Normalize, which is not supported")
    if kind == "Pooling":
        return _pooled(head, read_json(folder / path / "config.json", "a pooling module's configuration"), config)
    if kind == "Dense":
        dense = _dense(path, read_json(folder / path / "config.json", "a dense module's configuration"), head.size)
        return replace(head, dense=(*head.dense, dense), size=dense.outputs)
    if kind == "Normalize":
        return replace(head, normalize=True)
    raise StartupError(
        f"{MODULES} has a module {kind!r} in {path!r}, which is not supported",
        "Supported are Transformer in the model's own folder, Pooling, Dense and Normalize at the end.",
    )


def _pooled(head: Head, raw: dict[str, Any], config: ModelConfig) -> Head:
    asked = raw.get("pooling_mode")
    if asked is None:
        asked = [name for key, name in OLD_MODES.items() if raw.get(key)] or ["mean"]
    names = [asked] if isinstance(asked, str) else asked
    if not isinstance(names, list) or not names or any(name not in MODES for name in names):
        raise StartupError(f"the pooling {asked!r} is not supported", f"Supported are {', '.join(MODES)}.")
    return replace(
        head,
        pooling=tuple(MODES[name] for name in names),
        size=config.hidden * len(names),
        skip_prompt=raw.get("include_prompt") is False,
    )


def _dense(path: str, raw: dict[str, Any], inputs: int) -> Dense:
    name = str(raw.get("activation_function") or "Tanh").rpartition(".")[2]
    if name not in FUNCTIONS or raw.get("use_residual") or raw.get("module_input_name", SENTENCE) != SENTENCE:
        raise StartupError(f"the dense module {path} is not supported: {name}, {sorted(raw)}")
    if positive(raw, "in_features") != inputs:
        raise StartupError(f"the dense module {path} takes {raw['in_features']} numbers and gets {inputs}")
    return Dense(path, inputs, positive(raw, "out_features"), raw.get("bias") is not False, FUNCTIONS[name])


SENTENCE = "sentence_embedding"


def _dimensions(raw: Mapping[str, Any]) -> tuple[int, ...]:
    found = raw.get("matryoshka_dimensions") or []
    if not isinstance(found, list) or not all(isinstance(size, int) and size > 0 for size in found):
        raise StartupError("config.json: matryoshka_dimensions should be a list of positive numbers")
    return tuple(found)


def _optional(file: Path) -> dict[str, Any]:
    return read_json(file, "a file of sentence-transformers") if file.is_file() else {}
