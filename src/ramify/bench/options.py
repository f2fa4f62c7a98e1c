"""What `ramify bench` can be asked, by group. Flags and their help are generated from these classes.

Names are those of SGLang's benchmark where it has the option.
"""

from __future__ import annotations

import dataclasses
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec

from ramify.bench.goodput import Slo
from ramify.core.errors import StartupError

BackendName = Literal[
    "auto",
    "native",
    "openai",
    "openai-chat",
    "sglang",
    "sglang-native",
    "sglang-oai",
    "sglang-oai-chat",
    "vllm",
    "vllm-chat",
    "lmdeploy",
    "lmdeploy-chat",
]
MANY = 1e6  # seconds are eleven days; a gamma distribution of that shape has no spread left
DatasetName = Literal["random", "sharegpt", "generated-shared-prefix", "multi-turn"]


@dataclass(frozen=True)
class TargetOptions:
    """Server"""

    base_url: str | None = None
    """Address of the server. Default: http://HOST:PORT."""
    host: str = "127.0.0.1"
    """Host of the server."""
    port: int = 30000
    """Port of the server."""
    backend: BackendName = "auto"
    """Route to measure: native is /generate, openai is /v1/completions. auto: native if there."""
    model: str | None = None
    """Name of the model in requests. Default: the first one of /v1/models."""
    api_key: str | None = None
    """Key of the server. Default: the environment's OPENAI_API_KEY."""
    tokenizer: str | None = None
    """Folder or hub id of the model's tokenizer. Default: where the server says, if that is on this machine."""
    ready_timeout: float = 60.0
    """Seconds to wait for the server to answer."""
    request_timeout: float = 21600.0
    """Seconds after which a request counts as failed."""

    @property
    def url(self) -> str:
        """Without a slash at its end, and without the `/v1` that OpenAI clients are given."""
        url = (self.base_url or f"http://{self.host}:{self.port}").rstrip("/")
        return url.removesuffix("/v1")


@dataclass(frozen=True)
class DataOptions:
    """Prompts"""

    dataset_name: DatasetName = "random"
    """What is sent."""
    dataset_path: str | None = None
    """sharegpt: JSON file, a list of conversations."""
    num_prompts: int = 100
    """random, sharegpt: requests to send."""
    random_input_len: int = 256
    """random: prompt tokens, at most."""
    random_output_len: int = 64
    """random: tokens to generate, at most."""
    random_range_ratio: float = 1.0
    """random: lengths are drawn from RATIO * LEN to LEN; 1 makes them all equal."""
    sharegpt_output_len: int | None = None
    """sharegpt: tokens to generate. Default: as many as the answer has."""
    gsp_num_groups: int = 8
    """generated-shared-prefix: groups that share a system prompt."""
    gsp_prompts_per_group: int = 8
    """generated-shared-prefix: requests per group."""
    gsp_system_prompt_len: int = 256
    """generated-shared-prefix: tokens that a group shares."""
    gsp_question_len: int = 32
    """generated-shared-prefix: tokens of each request's own."""
    gsp_output_len: int = 32
    """generated-shared-prefix: tokens to generate."""
    multi_turn_num_users: int = 8
    """multi-turn: users, each with one conversation."""
    multi_turn_num_turns: int = 4
    """multi-turn: turns of a conversation."""
    multi_turn_input_len: int = 32
    """multi-turn: tokens a user adds in a turn."""
    multi_turn_output_len: int = 32
    """multi-turn: tokens to generate in a turn."""
    multi_turn_think_time: float = 0.0
    """multi-turn: seconds between an answer and the user's next turn."""


@dataclass(frozen=True)
class LoadOptions:
    """Load"""

    request_rate: float = math.inf
    """Requests (or users) that arrive per second; inf: all at once."""
    burstiness: float = 1.0
    """Shape of the gamma distribution of the gaps: 1 is a Poisson process, less is burstier, more is steadier."""
    max_concurrency: int | None = None
    """Requests open at once, at most; the others wait in the client."""
    seed: int = 0
    """Seed of prompts, lengths and arrivals."""
    warmup_requests: int = 1
    """Requests sent before the measurement; the run ends if none of them succeeds."""
    flush_cache: bool = False
    """Empty the server's prefix cache before the measurement."""


@dataclass(frozen=True)
class AskingOptions:
    """Requests"""

    temperature: float = 0.0
    """Sampling temperature."""
    disable_ignore_eos: bool = False
    """Let the model end its answers; otherwise they have the asked length."""
    extra_request_body: str | None = None
    """JSON object that is merged into every request."""

    @property
    def extra(self) -> dict[str, Any]:
        if self.extra_request_body is None:
            return {}
        try:
            return msgspec.json.decode(self.extra_request_body, type=dict[str, Any])
        except (ValueError, RecursionError) as e:
            raise StartupError(f"--extra-request-body should be a JSON object: {e}") from None


@dataclass(frozen=True)
class ReportOptions:
    """Report"""

    goodput: tuple[str, ...] = ()
    """Limits in ms, like `ttft:500 tpot:50 e2el:5000`: counts the requests per second that meet all of them."""
    output_file: str | None = None
    """JSON file for settings, results and every request."""
    output_details: bool = False
    """Put every gap between chunks into the JSON file."""


@dataclass(frozen=True)
class ServeOptions:
    """Measure a server that speaks the OpenAI API or SGLang's /generate."""

    target: TargetOptions = TargetOptions()
    data: DataOptions = DataOptions()
    load: LoadOptions = LoadOptions()
    asking: AskingOptions = AskingOptions()
    report: ReportOptions = ReportOptions()

    def check(self) -> None:
        """Ranges that types cannot say; raises `StartupError`."""
        data, load = self.data, self.load
        at_least(data, 1, *_lengths(data))
        at_least(load, 1, "max_concurrency")
        at_least(load, 0, "warmup_requests")
        at_least(data, 0, "multi_turn_think_time")
        at_least(self.asking, 0, "temperature")
        above_zero(load, math.inf, "request_rate")
        above_zero(load, MANY, "burstiness")
        above_zero(self.target, MANY, "ready_timeout", "request_timeout")
        if not 0 <= data.random_range_ratio <= 1:
            raise StartupError(f"--random-range-ratio must be from 0 to 1, got {data.random_range_ratio:g}")
        if data.dataset_name == "sharegpt" and data.dataset_path is None:
            raise StartupError("the dataset sharegpt is read from a file", "Give it with --dataset-path FILE.")
        check_writable(self.report.output_file)
        Slo.parse(self.report.goodput)
        _ = self.asking.extra


@dataclass(frozen=True)
class OfflineOptions:
    """Measure the engine in this process. All other flags are those of `ramify serve`, MODEL included."""

    input_len: int = 128
    """Tokens of each prompt."""
    output_len: int = 64
    """Tokens to generate for each prompt."""
    batch_size: str = "1,8,32"
    """Prompts computed together; several sizes are measured in turn."""
    repeat: int = 3
    """Measurements of each batch size; the table has their median and range."""
    seed: int = 0
    """Seed of the prompts."""
    against: Literal["none", "transformers"] = "none"
    """transformers: measure its `generate` as well, with the same weights, prompts, dtype and threads."""
    output_file: str | None = None
    """JSON file for settings and results."""

    @property
    def batch_sizes(self) -> list[int]:
        try:
            sizes = [int(size) for size in self.batch_size.split(",")]
        except ValueError:
            raise StartupError(f"--batch-size should be like 1,8,32, got {self.batch_size!r}") from None
        if min(sizes) < 1:
            raise StartupError(f"--batch-size must be at least 1, got {min(sizes)}")
        return sizes

    def check(self) -> None:
        """Ranges that types cannot say; raises `StartupError`."""
        at_least(self, 1, "input_len", "repeat")
        at_least(self, 2, "output_len")  # there is no decode rate of one token
        check_writable(self.output_file)
        _ = self.batch_sizes


def check_writable(path: str | None) -> None:
    """What cannot be written should be known before an hour of measuring."""
    if path is None:
        return
    file = Path(path).absolute()
    if file.is_dir() or not file.parent.is_dir() or not os.access(file if file.exists() else file.parent, os.W_OK):
        raise StartupError(f"--output-file {path}: cannot be written", "Its folder must exist, and it must be a file.")


def at_least(options: Any, low: float, *names: str) -> None:
    """Raises `StartupError` for the first of the fields that is below `low` or endless; None is as good as unset."""
    for name in names:
        value = getattr(options, name)
        if value is not None and not low <= value < math.inf:
            raise StartupError(f"{_flag(name)} must be {low:g} or more, and finite, got {value:g}")


def above_zero(options: Any, most: float, *names: str) -> None:
    for name in names:
        if not 0 < getattr(options, name) <= most:
            limit = f" and at most {most:g}" if math.isfinite(most) else ""
            raise StartupError(f"{_flag(name)} must be above 0{limit}, got {getattr(options, name):g}")


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _lengths(data: DataOptions) -> list[str]:
    """Fields that count something of which there must be one."""
    return [f.name for f in dataclasses.fields(data) if f.name.endswith(("_len", "_prompts", "_groups", "_group"))] + [
        "multi_turn_num_users",
        "multi_turn_num_turns",
    ]
