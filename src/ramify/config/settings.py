"""Every setting, by room: its type, default and one line of help. Command line flags, keys of `--config`, environment
variables and keyword arguments of `Engine` are all generated from here.

Names are SGLang's where SGLang has the setting. The dataclasses are frozen; what a run really uses is decided once, by
`config.resolve`, and what is None here has its default decided there.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal


def setting(default: Any, help: str, *, also: tuple[str, ...] = ()) -> Any:
    """A field: `help` for `--help`, `also` for other spellings of its flag (without the dashes)."""
    return dataclasses.field(default=default, metadata={"help": help, "also": also})


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
    load_format: Literal["auto", "safetensors", "dummy", "none"] = setting(
        "auto", "dummy: random weights, from config.json alone. none: no model, made-up tokens at once."
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16", "float", "half"] = setting(
        "auto", "Type of weights and activations. auto: the checkpoint's, where this machine computes it fast."
    )
    context_length: int | None = setting(None, "Longest request in tokens. Default: the model's own.")
    chat_template: str | None = setting(None, "File with a jinja chat template, in place of the model's.")
    device: Literal["auto", "cpu"] = setting("auto", "Where to compute.")
    threads: int | None = setting(None, "Cores to compute on. Default: all, less one for the front end above two.")
    attention_backend: Literal["auto", "torch_native", "reference"] = setting("auto", "Who computes attention.")
    random_seed: int = setting(0, "Seed of dummy weights and of the policy `random`.")
    weight_version: str = setting("default", "A label for these weights, shown in answers.")


@dataclass(frozen=True)
class CacheSettings:
    """KV cache"""

    page_size: int | None = setting(None, "Tokens per page of KV cache. Default: 16.")
    mem_fraction_static: float | None = setting(
        None, "Share of the memory that is free at start which weights and KV cache may take. Default: 0.7."
    )
    max_total_tokens: int | None = setting(None, "Size of the KV cache in tokens. Default: from the memory plan.")
    disable_radix_cache: bool = setting(False, "Reuse no prefixes.")


@dataclass(frozen=True)
class ScheduleSettings:
    """Scheduling"""

    schedule_policy: Literal["fcfs", "lpm", "dfs-weight", "lof", "random", "priority"] = setting(
        "fcfs", "Order of the waiting queue, within a priority."
    )
    max_running_requests: int | None = setting(None, "Requests computed together. Default: 32.")
    max_queued_requests: int | None = setting(None, "Requests that may wait; more get 503. Default: 4096.")
    chunked_prefill_size: int | None = setting(None, "Tokens per step; longer prompts come in chunks. -1: no limit.")
    schedule_conservativeness: float = setting(1.0, "Above 1: admit later and preempt less.")
    priority_scheduling_preemption_threshold: int = setting(
        0, "With the policy `priority`: how much more important a request must be to push out a running one."
    )
    schedule_low_priority_values_first: bool = setting(False, "A lower priority value goes first.")
    disable_overlap_schedule: bool = setting(False, "Plan a step only when the one before is done.")


@dataclass(frozen=True)
class ServerSettings:
    """Server"""

    host: str = setting("127.0.0.1", "Address to listen on.")
    port: int = setting(30000, "Port to listen on; 0 takes a free one.")
    api_key: str | None = setting(None, "Key that users must send (Authorization: Bearer KEY).")
    admin_api_key: str | None = setting(None, "Key for flush, abort-all and the like. Default: the API key.")
    allow_unauthenticated: bool = setting(False, "Listen beyond loopback without an API key.")
    api_workers: int = setting(1, "Processes that speak HTTP and tokenize.", also=("tokenizer-worker-num",))
    drain_timeout: float = setting(30.0, "Seconds that requests may go on after SIGTERM or Ctrl-C.")
    stream_interval: int = setting(1, "Tokens per chunk of a stream; the first always comes at once.")
    incremental_streaming_output: bool = setting(False, "/generate streams what is new instead of everything so far.")
    enable_cache_report: bool = setting(False, "Report cached tokens in the usage of OpenAI routes.")
    max_body_mib: int = setting(32, "Largest request body in MiB.")
    keep_alive_interval: float = setting(15.0, "Seconds of silence after which a stream gets a comment line.")


@dataclass(frozen=True)
class ParallelSettings:
    """Parallelism"""

    tp_size: int = setting(1, "Devices per replica.", also=("tensor-parallel-size", "tp"))
    pp_size: int = setting(1, "Pipeline stages.", also=("pipeline-parallel-size", "pp"))
    dp_size: int = setting(1, "Replicas.", also=("data-parallel-size", "dp"))
    ep_size: int = setting(1, "Expert-parallel ranks.", also=("expert-parallel-size", "ep"))
    nnodes: int = setting(1, "Machines.")


@dataclass(frozen=True)
class LogSettings:
    """Logging"""

    log_level: Literal["debug", "info", "warning", "error"] = setting("info", "How much to log.")
    log_interval: float = setting(5.0, "Seconds between throughput lines while busy; 0: none.")
    log_requests: bool = setting(False, "A line for every request when it comes, and one when it ends.")
    log_requests_level: int = setting(2, "0: ids and counts; 1: and parameters; 2: and text, cut; 3: and all the text.")
    log_requests_format: Literal["text", "json"] = setting("text", "How these lines look.")
    profile_dir: str | None = setting(None, "Folder for traces of /start_profile. Default: a new one under /tmp.")
    metrics_compat: Literal["none", "sglang"] = setting("none", "Export the metrics under SGLang's names as well.")

    @property
    def metrics_compat_prefixes(self) -> tuple[str, ...]:
        return () if self.metrics_compat == "none" else (self.metrics_compat,)


@dataclass(frozen=True)
class Settings:
    """All rooms."""

    model: ModelSettings = ModelSettings()
    cache: CacheSettings = CacheSettings()
    schedule: ScheduleSettings = ScheduleSettings()
    server: ServerSettings = ServerSettings()
    parallel: ParallelSettings = ParallelSettings()
    log: LogSettings = LogSettings()


ROOMS: dict[str, type] = {
    "model": ModelSettings,
    "cache": CacheSettings,
    "schedule": ScheduleSettings,
    "server": ServerSettings,
    "parallel": ParallelSettings,
    "log": LogSettings,
}


def names() -> dict[str, tuple[str, dataclasses.Field[Any]]]:
    """Every setting's name, with its room and its field."""
    return {field.name: (room, field) for room, cls in ROOMS.items() for field in dataclasses.fields(cls)}
