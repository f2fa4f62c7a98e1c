"""The JSON document of a run."""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec

import ramify
from ramify.bench.contest import Results, Sample
from ramify.bench.options import OfflineOptions
from ramify.bench.outcome import Outcome
from ramify.config.machine import read_machine
from ramify.config.resolve import Resolved
from ramify.core.errors import StartupError

RATES = ("prefill", "decode", "output")  # of a sample, in tokens per second
FORMAT = 1  # grows when a reader of these files has to change


def serve_document(outcome: Outcome) -> dict[str, Any]:
    """Settings (without the key), results, and every request."""
    server, options = outcome.server, outcome.options
    settings = {k: v for room in dataclasses.asdict(options).values() for k, v in room.items() if k != "api_key"}
    records = sorted(outcome.records, key=lambda record: record.index)
    return {
        **header("ramify bench serve", "aiohttp", "msgspec"),
        "server": {
            "url": server.url,
            "path": server.backend.path,
            "backend": server.backend.name,
            "model": server.model,
            "version": server.version,
            "context": server.context,
        },
        "settings": settings,
        "workload": outcome.workload.about,
        "remarks": outcome.remarks,
        "summary": msgspec.to_builtins(outcome.summary),
        "requests": [record.shown(options.report.output_details) for record in records],
    }


def offline_document(
    options: OfflineOptions, resolved: Resolved, results: Results, notes: Sequence[str]
) -> dict[str, Any]:
    """Settings, every sample with its rates, and ratios of the first engine to the second, run by run."""
    beside = ("transformers",) if len(results.engines) > 1 else ()
    return {
        **header("ramify bench offline", "torch", *beside),
        "engine": engine_facts(resolved),
        "settings": dataclasses.asdict(options),
        "remarks": list(notes),
        "samples": [_sample(sample) for sample in results.samples],
        "ratios": {str(batch): {rate: results.ratios(batch, rate) for rate in RATES} for batch in results.batches},
        "agreement": msgspec.to_builtins(results.agreement) if beside else None,
    }


def engine_facts(resolved: Resolved) -> dict[str, Any]:
    return {
        "model": resolved.served_name,
        "load_format": resolved.settings.model.load_format,
        "dtype": resolved.dtype,
        "threads": resolved.threads,
        "page_size": resolved.page_size,
        "max_running_requests": resolved.rows,
        "chunked_prefill_size": resolved.chunk,
        "attention_backend": resolved.attention,
    }


def _sample(sample: Sample) -> dict[str, Any]:
    rates = {f"{rate}_tokens_per_s": getattr(sample, rate) for rate in RATES}
    return {**msgspec.to_builtins(sample), **rates}


def header(kind: str, *packages: str) -> dict[str, Any]:
    """What made this document, when, and where. The machine is the client's."""
    machine = read_machine()
    return {
        "kind": kind,
        "format": FORMAT,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {
            "ramify": ramify.__version__,
            "python": platform.python_version(),
            **{package: version(package) for package in packages},
        },
        "machine": {
            "cpu": machine.name,
            "cores": machine.cores,
            "memory_available": machine.memory,
            "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        },
    }


def write(document: dict[str, Any], path: str) -> None:
    try:
        Path(path).write_bytes(msgspec.json.format(msgspec.json.encode(document), indent=1))
    except OSError as e:
        raise StartupError(f"--output-file {path}: {e.strerror}") from None
