"""OpenVINO GenAI with continuous batching and prefix caching: python worker_openvino.py IR_FOLDER"""

from __future__ import annotations

import importlib.metadata
import itertools
import os
import sys

import numpy as np
import openvino as ov
import openvino_genai as genai
from wire import Record, serve

CACHE_GB = 3


class OpenVino:
    def __init__(self, folder: str) -> None:
        self.versions = {"openvino-genai": importlib.metadata.version("openvino-genai")}
        scheduling = genai.SchedulerConfig()
        scheduling.cache_size, scheduling.enable_prefix_caching = CACHE_GB, True
        threads = {"INFERENCE_NUM_THREADS": len(os.sched_getaffinity(0))}
        self.pipe = genai.ContinuousBatchingPipeline(folder, scheduling, "CPU", threads)
        self.numbers = itertools.count()

    def prepare(self, users: int, context: int) -> None:
        pass

    def run(self, prompts: list[list[int]], new: int) -> Record:
        record = Record(len(prompts))
        config = genai.GenerationConfig(max_new_tokens=new, ignore_eos=True, do_sample=False)
        handles = [self.pipe.add_request(next(self.numbers), ov.Tensor(np.array([p])), config) for p in prompts]
        while self.pipe.has_non_finished_requests():
            self.pipe.step()
            for request, handle in enumerate(handles):
                while handle.can_read():
                    record.add(request, *handle.read()[0].generated_ids)
        return record


if __name__ == "__main__":
    serve(lambda: OpenVino(sys.argv[1]))
