"""`ramify bench offline`: the engine in this process, batch by batch, beside transformers' `generate` if asked."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from ramify.bench.contest import Contestant, Ids, measure
from ramify.bench.document import offline_document, write
from ramify.bench.offline_report import show_offline
from ramify.bench.options import OfflineOptions
from ramify.config.resolve import Resolved
from ramify.config.settings import Settings
from ramify.core.errors import StartupError
from ramify.engine.build import prepare
from ramify.engine.engine import Engine

PATIENCE = 10.0  # seconds in which an engine without requests has to come to rest


class Ours:
    name = "ramify"

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def ready(self) -> None:
        """Rest, with an empty cache: the last step may still be flying when its answers are here."""
        until = time.monotonic() + PATIENCE
        while not self._engine.flush_cache():
            assert time.monotonic() < until, "an engine without requests does not come to rest"
            time.sleep(0.001)

    def generate(self, prompts: Sequence[Ids], length: int) -> list[Ids]:
        params = {"temperature": 0, "max_new_tokens": length, "ignore_eos": True}
        outputs = self._engine.generate(input_ids=list(prompts), sampling_params=params, progress=False)
        return [output["output_ids"] for output in outputs]


class Theirs:
    """transformers with its own defaults for attention and caching, and weights in memory: loaded ones are mapped from
    their file, which can make its first minutes several times slower.
    """

    name = "transformers"

    def __init__(self, folder: Path, dtype: str, threads: int) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        self._torch, self._threads = torch, threads
        try:
            self._model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype)).train(False)
        except (OSError, ValueError, KeyError) as e:
            raise StartupError(f"transformers does not load {folder}: {e}") from None
        for parameter in self._model.parameters():
            parameter.data = parameter.data.clone()
        greedy = self._model.generation_config
        greedy.update(do_sample=False, temperature=None, top_p=None, top_k=None)
        greedy.eos_token_id = None  # to the full length

    def ready(self) -> None:
        """Nothing outlives a call; the threads are those of whoever set them last."""
        self._torch.set_num_threads(self._threads)

    def generate(self, prompts: Sequence[Ids], length: int) -> list[Ids]:
        ids = self._torch.tensor(list(prompts))
        mask = self._torch.ones_like(ids)
        with self._torch.inference_mode():
            made = self._model.generate(ids, attention_mask=mask, max_new_tokens=length, pad_token_id=0)
        return made[:, ids.shape[1] :].tolist()


def offline(options: OfflineOptions, settings: Settings) -> int:
    """Measure, print and write. Returns the exit status."""
    settings = _with_room(settings, options)
    resolved = prepare(settings)
    _must_fit(options, resolved)
    with _contestants(options, settings) as contestants:
        results = measure(options, contestants, resolved.model.vocab, _say)
    notes = _notes(options, resolved)
    show_offline(options, resolved, results, notes)
    if options.output_file is not None:
        write(offline_document(options, resolved, results, notes), options.output_file)
    return 0


def _say(text: str) -> None:
    print(text, file=sys.stderr)


def _with_room(settings: Settings, options: OfflineOptions) -> Settings:
    """Rows for the largest batch, unless they were set."""
    asked = settings.schedule.max_running_requests
    rows = max(*options.batch_sizes, 32) if asked is None else asked
    return replace(settings, schedule=replace(settings.schedule, max_running_requests=rows))


def _must_fit(options: OfflineOptions, resolved: Resolved) -> None:
    tokens = options.input_len + options.output_len
    if tokens > resolved.context:
        raise StartupError(
            f"--input-len and --output-len make {tokens} tokens, and the model's context has {resolved.context}"
        )
    if options.against == "transformers" and resolved.settings.model.load_format == "none":
        raise StartupError("--load-format none has no model that transformers could run", "Use dummy.")


def _notes(options: OfflineOptions, resolved: Resolved) -> list[str]:
    """Where batches are not computed together as they were meant to be."""
    notes, largest = [], max(options.batch_sizes)
    if resolved.rows < largest:
        notes.append(f"the engine computes {resolved.rows} rows together (--max-running-requests)")
    if largest * (options.input_len + options.output_len) > resolved.memory.pool_tokens:
        notes.append(f"the KV cache holds {resolved.memory.pool_tokens} tokens, less than the largest batch needs")
    return notes


@contextmanager
def _contestants(options: OfflineOptions, settings: Settings) -> Iterator[list[Contestant]]:
    """Engines with the same weights in the same type."""
    with tempfile.TemporaryDirectory(prefix="ramify-bench-") as scratch:
        if options.against == "transformers" and settings.model.load_format == "dummy":
            settings = _with_weights(settings, Path(scratch))
        with Engine.from_settings(settings) as engine:
            found: list[Contestant] = [Ours(engine)]
            if options.against == "transformers":
                _no_bars()
                _say("loading the weights into transformers")
                found.append(Theirs(engine.resolved.folder, engine.resolved.dtype, engine.resolved.threads))
            yield found


def _no_bars() -> None:
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()


def _with_weights(settings: Settings, folder: Path) -> Settings:
    """In place of dummy weights those that transformers makes up for the config, in a file that both can read."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    _no_bars()
    _say("making weights up, and writing them for both engines to read")
    resolved = prepare(settings)
    torch.manual_seed(settings.model.random_seed)
    try:
        config = AutoConfig.from_pretrained(resolved.folder)
        AutoModelForCausalLM.from_config(config, dtype=getattr(torch, resolved.dtype)).save_pretrained(folder)
    except (OSError, ValueError, KeyError) as e:
        raise StartupError(f"transformers makes no weights for {resolved.folder}: {e}") from None
    made = replace(settings.model, model_path=str(folder), load_format="auto", skip_tokenizer_init=True)
    return replace(settings, model=made)
