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
from ramify.config.read import refusal_of
from ramify.config.settings import DAY, MANY, Range, setting
from ramify.core.errors import StartupError

COUNT = Range(1, MANY)
PATIENCE = Range(0.001, 30 * DAY)  # seconds


@dataclass(frozen=True)
class TargetOptions:
    """Server"""

    base_url: str | None = setting(None, "Address of the server. Default: http://HOST:PORT.")
    host: str = setting("127.0.0.1", "Host of the server.")
    port: int = setting(30000, "Port of the server.", within=Range(1, 65535))
    backend: Literal[
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
    ] = setting(
        "auto",
        "Route to measure: native is /generate, openai /v1/completions, openai-chat /v1/chat/completions; the others "
        "are SGLang's names for them. auto: native if it is there, else openai.",
    )
    model: str | None = setting(None, "Name of the model in requests. Default: the first one of /v1/models.")
    api_key: str | None = setting(None, "Key of the server. Default: the environment's OPENAI_API_KEY.")
    tokenizer: str | None = setting(
        None, "Folder or hub id of the model's tokenizer. Default: where the server says, if that is on this machine."
    )
    ready_timeout: float = setting(60.0, "Seconds to wait for the server to answer.", within=PATIENCE)
    request_timeout: float = setting(21600.0, "Seconds after which a request counts as failed.", within=PATIENCE)

    @property
    def url(self) -> str:
        """Without a slash at its end, and without the `/v1` that OpenAI clients are given."""
        url = (self.base_url or f"http://{self.host}:{self.port}").rstrip("/")
        return url.removesuffix("/v1")


@dataclass(frozen=True)
class DataOptions:
    """Prompts"""

    dataset_name: Literal["random", "sharegpt", "generated-shared-prefix", "multi-turn"] = setting(
        "random",
        "What is sent: tokens at random, conversations of a file, groups that begin alike, or users who come back.",
    )
    dataset_path: str | None = setting(None, "sharegpt: JSON file, a list of conversations.")
    num_prompts: int = setting(100, "random, sharegpt: requests to send.", within=COUNT)
    random_input_len: int = setting(256, "random: prompt tokens, at most.", within=COUNT)
    random_output_len: int = setting(64, "random: tokens to generate, at most.", within=COUNT)
    random_range_ratio: float = setting(
        1.0, "random: lengths are drawn from RATIO * LEN to LEN; 1 makes them all equal.", within=Range(0, 1)
    )
    sharegpt_output_len: int | None = setting(
        None, "sharegpt: tokens to generate. Default: as many as the answer has.", within=COUNT
    )
    gsp_num_groups: int = setting(8, "generated-shared-prefix: groups that share a system prompt.", within=COUNT)
    gsp_prompts_per_group: int = setting(8, "generated-shared-prefix: requests per group.", within=COUNT)
    gsp_system_prompt_len: int = setting(256, "generated-shared-prefix: tokens that a group shares.", within=COUNT)
    gsp_question_len: int = setting(32, "generated-shared-prefix: tokens of each request's own.", within=COUNT)
    gsp_output_len: int = setting(32, "generated-shared-prefix: tokens to generate.", within=COUNT)
    multi_turn_num_users: int = setting(8, "multi-turn: users, each with one conversation.", within=COUNT)
    multi_turn_num_turns: int = setting(4, "multi-turn: turns of a conversation.", within=COUNT)
    multi_turn_input_len: int = setting(32, "multi-turn: tokens a user adds in a turn.", within=COUNT)
    multi_turn_output_len: int = setting(32, "multi-turn: tokens to generate in a turn.", within=COUNT)
    multi_turn_think_time: float = setting(
        0.0, "multi-turn: seconds between an answer and the user's next turn.", within=Range(0, DAY)
    )


@dataclass(frozen=True)
class LoadOptions:
    """Load"""

    request_rate: float = setting(
        math.inf, "Requests (or users) that arrive per second; inf: all at once.", within=Range(1e-6, math.inf)
    )
    burstiness: float = setting(
        1.0,
        "Shape of the gamma distribution of the gaps: 1 is a Poisson process, less is burstier, more is steadier.",
        within=Range(1e-6, 1e6),
    )
    max_concurrency: int | None = setting(
        None, "Requests open at once, at most; the others wait in the client.", within=COUNT
    )
    seed: int = setting(0, "Seed of prompts, lengths and arrivals.")
    warmup_requests: int = setting(
        1, "Requests sent before the measurement; the run ends if none of them succeeds.", within=Range(0, MANY)
    )
    flush_cache: bool = setting(False, "Empty the server's prefix cache before the measurement.")


@dataclass(frozen=True)
class AskingOptions:
    """Requests"""

    temperature: float = setting(0.0, "Sampling temperature.", within=Range(0, 1e6))
    disable_ignore_eos: bool = setting(False, "Let the model end its answers; otherwise they have the asked length.")
    extra_request_body: str | None = setting(None, "JSON object that is merged into every request.")

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

    goodput: tuple[str, ...] = setting(
        (), "Limits in ms, like ttft:500 tpot:50 e2el:5000: counts the requests per second that meet all of them."
    )
    output_file: str | None = setting(None, "JSON file for settings, results and every request.")
    output_details: bool = setting(False, "Put every gap between chunks into the JSON file.")


@dataclass(frozen=True)
class ServeOptions:
    """Measure a running server over HTTP: ramify's, SGLang's, or any that speaks the OpenAI API."""

    target: TargetOptions = TargetOptions()
    data: DataOptions = DataOptions()
    load: LoadOptions = LoadOptions()
    asking: AskingOptions = AskingOptions()
    report: ReportOptions = ReportOptions()

    def check(self) -> None:
        """What types cannot say; raises `StartupError`."""
        for room in dataclasses.fields(self):
            check_ranges(getattr(self, room.name))
        if self.data.dataset_name == "sharegpt" and self.data.dataset_path is None:
            raise StartupError("the dataset sharegpt is read from a file", "Give it with --dataset-path FILE.")
        check_writable(self.report.output_file)
        Slo.parse(self.report.goodput)
        _ = self.asking.extra


@dataclass(frozen=True)
class OfflineOptions:
    """Measure the engine in this process, without HTTP: prefill, decode and the whole, batch by batch."""

    input_len: int = setting(128, "Tokens of each prompt.", within=COUNT)
    output_len: int = setting(64, "Tokens to generate for each prompt.", within=Range(2, MANY))
    batch_size: str = setting("1,8,32", "Prompts computed together; several sizes are measured in turn.")
    repeat: int = setting(3, "Measurements of each batch size; the table has their median and range.", within=COUNT)
    seed: int = setting(0, "Seed of the prompts.")
    against: Literal["none", "transformers"] = setting(
        "none", "transformers: measure its `generate` as well, with the same weights, prompts, dtype and threads."
    )
    output_file: str | None = setting(None, "JSON file for settings and results.")

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
        """What types cannot say; raises `StartupError`."""
        check_ranges(self)
        check_writable(self.output_file)
        _ = self.batch_sizes


def check_writable(path: str | None) -> None:
    """What cannot be written should be known before an hour of measuring."""
    if path is None:
        return
    file = Path(path).absolute()
    if file.is_dir() or not file.parent.is_dir() or not os.access(file if file.exists() else file.parent, os.W_OK):
        raise StartupError(f"--output-file {path}: cannot be written", "Its folder must exist, and it must be a file.")


def check_ranges(options: Any) -> None:
    """Raises `StartupError` for the first field that is not what it may be."""
    for field in dataclasses.fields(options):
        if refusal := refusal_of(field, getattr(options, field.name)):
            raise StartupError(f"--{field.name.replace('_', '-')} {refusal}")
