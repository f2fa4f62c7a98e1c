"""Every setting, by room: its type, default and one line of help. Command line flags, keys of `--config`, environment
variables and keyword arguments of `Engine` are all generated from here.

Names are SGLang's where SGLang has the setting. The dataclasses are frozen; what a run really uses is decided once, by
`config.resolve`, and what is None here has its default decided there.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal

MANY = 2**31 - 1
DAY = 86_400.0  # seconds


@dataclass(frozen=True)
class Range:
    """Numbers that a setting may have, both ends included; `beside` are allowed as well. NaN is in no range."""

    least: float
    most: float
    beside: tuple[float, ...] = ()

    def refusal(self, value: float) -> str | None:
        """What is wrong with `value`, to stand after its name; None if nothing is."""
        if self.least <= value <= self.most or value in self.beside:
            return None
        ends = f"at least {self.least:.15g}" if value < self.least else f"at most {self.most:.15g}"
        also = "".join(f", or {other:g}" for other in self.beside)
        if math.isnan(value):
            ends = f"a number from {self.least:.15g} to {self.most:.15g}"
        return f"must be {ends}{also}, got {value:.15g}"


def setting(default: Any, help: str, *, also: tuple[str, ...] = (), within: Range | None = None) -> Any:
    """A field: `help` for `--help`, `also` for other spellings of its flag (without the dashes), `within` for what a
    number may be.
    """
    return dataclasses.field(default=default, metadata={"help": help, "also": also, "within": within})


@dataclass(frozen=True)
class ModelSettings:
    """Model"""

    model_path: str | None = setting(
        None, "Folder with the weights, or a hub id (org/model). Without it the bundled demo model.", also=("model",)
    )
    tokenizer_path: str | None = setting(None, "Folder of the tokenizer, if not the model's.")
    skip_tokenizer_init: bool = setting(False, "No tokenizer: prompts and answers are token ids.")
    revision: str | None = setting(None, "Branch, tag or commit of a hub model.")
    served_model_name: str | None = setting(None, "Name in /v1/models and in answers. Default: the model path.")
    is_embedding: bool = setting(False, "Serve embeddings of a model whose files say that it generates.")
    model_impl: Literal["auto", "native", "transformers"] = setting(
        "auto", "Whose code computes the model. auto: ramify's own where it has some, else transformers'."
    )
    load_format: Literal["auto", "safetensors", "dummy", "none"] = setting(
        "auto", "dummy: random weights, from config.json alone. none: no model, made-up tokens at once."
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16", "float", "half"] = setting(
        "auto", "Type of weights and activations. auto: the checkpoint's, where this machine computes it fast."
    )
    quantization: (
        Literal[
            "w8a8",
            "w8a8_int8",
            "int4",
            "fp8",
            "compressed-tensors",
            "gptq",
            "awq",
            "bitsandbytes",
            "mxfp4",
            "gguf",
        ]
        | None
    ) = setting(
        None,
        "Store weights in fewer bits: w8a8 (int8, activations too), int4. Others are seen by themselves.",
    )
    context_length: int | None = setting(
        None, "Longest request in tokens. Default: the model's own.", within=Range(1, MANY)
    )
    chat_template: str | None = setting(
        None, "File with a jinja chat template, in place of the model's, or qwen3-reranker."
    )
    device: str = setting("auto", "Where to compute: cpu, cuda, or cuda:N. auto: the CPU.")
    threads: int | None = setting(
        None, "Cores to compute on. Default: all, less one for the front end above two.", within=Range(1, 4096)
    )
    attention_backend: Literal["auto", "cpu", "torch_native", "triton", "flashinfer", "fa3", "reference"] = setting(
        "auto", "Who computes attention: cpu and torch_native on a CPU; on a GPU triton, or what is installed there."
    )
    linear_backend: Literal["auto", "packed", "torch", "triton"] = setting(
        "auto", "Who multiplies with weights: packed on a CPU; on a GPU torch (cuBLAS), or triton, which is invariant."
    )
    deterministic: bool = setting(
        False,
        "Numbers of a request never depend on what else is computed. So it is on a CPU; a GPU takes other linears.",
        also=("enable-deterministic-inference",),
    )
    random_seed: int = setting(0, "Seed of dummy weights and of the policy `random`.", within=Range(0, 2**63 - 1))
    weight_version: str = setting("default", "A label for these weights, shown in answers.")
    lazy: bool = setting(False, "Start the model's engine when the first request wants it.")
    idle_unload_after: float | None = setting(
        None, "Seconds without a request after which the engine ends, until the next request.", within=Range(0.1, DAY)
    )


@dataclass(frozen=True)
class CacheSettings:
    """KV cache"""

    page_size: int | None = setting(None, "Tokens per page of KV cache. Default: 16.", within=Range(1, 4096))
    kv_cache_dtype: Literal["auto", "bf16", "bfloat16", "fp32", "float32", "int8", "fp8_e4m3"] = setting(
        "auto", "Type of keys and values in the cache; int8 has a scale per token and head; fp8_e4m3 is for GPUs."
    )
    mem_fraction_static: float | None = setting(
        None,
        "Share of the memory that is free at start which a model may take. Default: 0.7, on a GPU 0.9.",
        within=Range(0.0001, 1),
    )
    max_total_tokens: int | None = setting(
        None, "Size of the KV cache in tokens. Default: from the memory plan.", within=Range(1, MANY)
    )
    max_mamba_cache_size: int | None = setting(
        None,
        "Slots for the states of layers that keep one (Mamba 2 and its like). Default: from the memory plan.",
        within=Range(2, MANY),
    )
    mamba_track_interval: int = setting(
        256, "Tokens after which a state is kept, for others to go on from.", within=Range(1, MANY)
    )
    disable_radix_cache: bool = setting(False, "Reuse no prefixes.")


@dataclass(frozen=True)
class ScheduleSettings:
    """Scheduling"""

    schedule_policy: Literal["fcfs", "lpm", "dfs-weight", "lof", "random", "priority"] = setting(
        "fcfs", "Order of the waiting queue, within a priority."
    )
    max_running_requests: int | None = setting(
        None, "Requests computed together. Default: 32, on a GPU 256.", within=Range(1, 65536)
    )
    max_queued_requests: int | None = setting(
        None, "Requests that may wait; more get 503. Default: 4096.", within=Range(1, MANY)
    )
    chunked_prefill_size: int | None = setting(
        None, "Tokens per step; longer prompts come in chunks. -1: no limit.", within=Range(1, MANY, (-1,))
    )
    schedule_conservativeness: float = setting(1.0, "Above 1: admit later and preempt less.", within=Range(0, 100))
    priority_scheduling_preemption_threshold: int = setting(
        0,
        "With the policy `priority`: how much more important a request must be to push out a running one.",
        within=Range(0, MANY),
    )
    schedule_low_priority_values_first: bool = setting(False, "A lower priority value goes first.")
    disable_overlap_schedule: bool = setting(False, "Plan a step only when the one before is done.")
    disable_cuda_graph: bool = setting(
        False, "On a GPU: capture no steps as graphs.", also=("disable-decode-cuda-graph",)
    )
    cuda_graph_max_bs: int | None = setting(
        None,
        "On a GPU: most rows of a captured step. Default: --max-running-requests, 256 at most.",
        also=("cuda-graph-max-bs-decode",),
        within=Range(1, 65536),
    )
    cuda_graph_bs: tuple[int, ...] | None = setting(
        None,
        "On a GPU: numbers of rows to capture, like 1 2 4 8. Default: 1, 2, 4, then every eighth.",
        also=("cuda-graph-bs-decode",),
    )


@dataclass(frozen=True)
class AdapterSettings:
    """Adapters (LoRA)"""

    enable_lora: bool = setting(False, "Serve adapters beside the model. --lora-paths says so too.")
    lora_paths: tuple[str, ...] | None = setting(
        None, """Adapters to load at start: NAME=FOLDER ..., or JSON: {"lora_name", "lora_path", "pinned"}."""
    )
    max_lora_rank: int | None = setting(
        None, "Highest rank of an adapter. Default: the highest of --lora-paths, else 16.", within=Range(1, 512)
    )
    lora_target_modules: tuple[str, ...] | None = setting(
        None, "What adapters may change (q_proj ...), or all. Default: what those of --lora-paths do, else all."
    )
    lora_whole_modules: tuple[str, ...] | None = setting(
        None,
        "What adapters may have as a whole (embed_tokens, lm_head, score). Default: what those of --lora-paths have.",
    )
    lora_extra_vocab_size: int | None = setting(
        None,
        "Tokens that an adapter may add or have rows of its own for. Default: the most of --lora-paths, else 0.",
        within=Range(0, 65536),
    )
    max_loras_per_batch: int = setting(
        8, "Adapters that compute together, each of which has memory of its own.", within=Range(1, 256)
    )
    max_loaded_loras: int | None = setting(
        None, "Adapters kept in memory beside those that compute. Default: 64.", within=Range(1, 65536)
    )
    lora_dir: str | None = setting(
        None, "Folder that adapters loaded over HTTP must lie in. Default: any folder, for who has the admin key."
    )
    lora_eviction_policy: Literal["lru", "fifo"] = setting(
        "lru", "Which adapter gives way to another: the one used longest ago, or the one that came first."
    )


@dataclass(frozen=True)
class GrammarSettings:
    """Structured output"""

    grammar_backend: Literal["llguidance"] = setting("llguidance", "The library behind structured output.")
    constrained_json_disable_any_whitespace: bool = setting(
        False, 'Constrained JSON is written as {"a": 1, "b": 2}, in no other way.'
    )
    constrained_json_whitespace_pattern: str | None = setting(
        None, "Regex of the white space between marks of constrained JSON. Default: a space, or an indented line."
    )


@dataclass(frozen=True)
class ServerSettings:
    """Server"""

    host: str = setting("127.0.0.1", "Address to listen on.")
    port: int = setting(30000, "Port to listen on; 0 takes a free one.", within=Range(0, 65535))
    api_key: str | None = setting(None, "Key that users must send (Authorization: Bearer KEY).")
    admin_api_key: str | None = setting(None, "Key for flush, abort-all and the like. Default: the API key.")
    allow_unauthenticated: bool = setting(False, "Listen beyond loopback without an API key.")
    api_workers: int = setting(
        1, "Processes that speak HTTP and tokenize.", also=("tokenizer-worker-num",), within=Range(1, 256)
    )
    max_connections: int = setting(
        8192, "Open connections of an API worker; more get 503 and are closed.", within=Range(1, MANY)
    )
    drain_timeout: float = setting(
        30.0, "Seconds that requests may go on after SIGTERM or Ctrl-C.", within=Range(0, DAY)
    )
    sampling_defaults: Literal["model", "openai"] = setting(
        "model", "What OpenAI requests leave unsaid: as generation_config.json has it, or OpenAI."
    )
    preferred_sampling_params: str | None = setting(
        None, "JSON object: sampling parameters of /generate that a request leaves unsaid."
    )
    stream_interval: int = setting(
        1, "Tokens per chunk of a stream; the first always comes at once.", within=Range(1, MANY)
    )
    incremental_streaming_output: bool = setting(False, "/generate streams what is new instead of everything so far.")
    tool_call_parser: str = setting(
        "auto", "How the model writes tool calls (hermes, llama3, ...). auto: by its chat template. none: as text."
    )
    reasoning_parser: str = setting(
        "auto", "How the model writes reasoning (deepseek-r1, qwen3, ...). auto: by its chat template. none: as text."
    )
    enable_return_hidden_states: bool = setting(False, "Requests may ask for hidden states.")
    enable_cache_report: bool = setting(False, "Report cached tokens in the usage of OpenAI routes.")
    allow_auto_truncate: bool = setting(
        False, "Texts to embed, rank or classify that are too long are cut, not refused."
    )
    max_body_mib: int = setting(32, "Largest request body in MiB.", within=Range(1, 4096))
    keep_alive_interval: float = setting(
        15.0, "Seconds of silence after which a stream gets a comment line.", within=Range(0.1, DAY)
    )


@dataclass(frozen=True)
class ParallelSettings:
    """Parallelism"""

    tp_size: int = setting(1, "Devices per replica.", also=("tensor-parallel-size", "tp"), within=Range(1, MANY))
    pp_size: int = setting(1, "Pipeline stages.", also=("pipeline-parallel-size", "pp"), within=Range(1, MANY))
    dp_size: int = setting(1, "Replicas.", also=("data-parallel-size", "dp"), within=Range(1, MANY))
    ep_size: int = setting(1, "Expert-parallel ranks.", also=("expert-parallel-size", "ep"), within=Range(1, MANY))
    nnodes: int = setting(1, "Machines.", within=Range(1, MANY))


@dataclass(frozen=True)
class LogSettings:
    """Logging"""

    log_level: Literal["debug", "info", "warning", "error", "critical"] = setting("info", "How much to log.")
    log_interval: float = setting(5.0, "Seconds between throughput lines while busy; 0: none.", within=Range(0, DAY))
    log_requests: bool = setting(False, "A line for every request when it comes, and one when it ends.")
    log_requests_level: int = setting(
        2, "0: ids and counts; 1: and parameters; 2: and text, cut; 3: and all the text.", within=Range(0, 3)
    )
    log_requests_format: Literal["text", "json"] = setting("text", "How these lines look.")
    profile_dir: str | None = setting(None, "Folder for traces of /start_profile. Default: a new one under /tmp.")
    metrics_compat: Literal["none", "sglang"] = setting("none", "Export the metrics under SGLang's names as well.")

    @property
    def metrics_compat_prefixes(self) -> tuple[str, ...]:
        return () if self.metrics_compat == "none" else (self.metrics_compat,)


@dataclass(frozen=True)
class Settings:
    """All rooms, and where what was asked for came from: by name, in the words of `ramify explain`."""

    model: ModelSettings = ModelSettings()
    cache: CacheSettings = CacheSettings()
    schedule: ScheduleSettings = ScheduleSettings()
    adapters: AdapterSettings = AdapterSettings()
    grammar: GrammarSettings = GrammarSettings()
    server: ServerSettings = ServerSettings()
    parallel: ParallelSettings = ParallelSettings()
    log: LogSettings = LogSettings()
    sources: dict[str, str] = dataclasses.field(default_factory=dict, compare=False)


ROOMS: dict[str, type] = {
    "model": ModelSettings,
    "cache": CacheSettings,
    "schedule": ScheduleSettings,
    "adapters": AdapterSettings,
    "grammar": GrammarSettings,
    "server": ServerSettings,
    "parallel": ParallelSettings,
    "log": LogSettings,
}


def names() -> dict[str, tuple[str, dataclasses.Field[Any]]]:
    """Every setting's name, with its room and its field."""
    return {field.name: (room, field) for room, cls in ROOMS.items() for field in dataclasses.fields(cls)}


def spellings() -> dict[str, str]:
    """Every name of a setting in snake_case, other spellings included, with the name of its field."""
    found = {name: name for name in names()}
    for name, (_, field) in names().items():
        found |= {other.replace("-", "_"): name for other in field.metadata["also"]}
    return found
