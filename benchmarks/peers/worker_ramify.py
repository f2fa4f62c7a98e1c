"""ramify, as a Python program uses it: python worker_ramify.py CHECKPOINT [NAME=VALUE of Engine ...]"""

from __future__ import annotations

import sys

from wire import Record, serve

import ramify
from ramify.ops.cpu.library import instruction_set


class Ramify:
    def __init__(self, checkpoint: str, **settings: str) -> None:
        if not (kernels := instruction_set()):
            raise SystemExit("ramify's compiled kernels are not there: install it again")
        self.versions = {"ramify": ramify.__version__, "kernels": kernels, **settings}
        self.engine = ramify.Engine(
            checkpoint, skip_tokenizer_init=True, max_running_requests=32, max_total_tokens=24_576, **settings
        )

    def prepare(self, users: int, context: int) -> None:
        self.engine.flush_cache()

    def run(self, prompts: list[list[int]], new: int) -> Record:
        record = Record(len(prompts))
        record.cached = [0] * len(prompts)
        params = {"temperature": 0.0, "max_new_tokens": new, "ignore_eos": True}
        for part in self.engine.generate(input_ids=prompts, sampling_params=params, stream=True):
            request = part["index"]
            record.add(request, *part["output_ids"][len(record.ids[request]) :])
            record.cached[request] = part["meta_info"]["cached_tokens"]
        return record


if __name__ == "__main__":
    checkpoint, *settings = sys.argv[1:]
    serve(lambda: Ramify(checkpoint, **dict(one.split("=", 1) for one in settings)))
