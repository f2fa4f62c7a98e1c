"""transformers' generate, one batch at a time: python worker_transformers.py CHECKPOINT DTYPE

Prompts of one run have the same length, so nothing is padded. A run whose prompts go on where the last ended, as the
turns of a chat do, gets the key-value cache of that run. The weights are copied out of the mapped file.
"""

from __future__ import annotations

import os
import sys

import torch
import transformers
from transformers import AutoModelForCausalLM
from wire import Record, serve


class Transformers:
    def __init__(self, checkpoint: str, dtype: str) -> None:
        self.versions = {"transformers": transformers.__version__, "torch": torch.__version__, "dtype": dtype}
        self.model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=dtype).eval()
        for weight in self.model.parameters():
            weight.data = weight.data.clone()
        self.model.generation_config.eos_token_id = None
        self.prepare(0, 0)

    def prepare(self, users: int, context: int) -> None:
        self.known, self.cache = torch.empty(0, 0, dtype=torch.long), None

    def run(self, prompts: list[list[int]], new: int) -> Record:
        record = Record(len(prompts))
        ids = torch.tensor(prompts)
        with torch.inference_mode():
            out = self.model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                past_key_values=self.cache if self.goes_on(ids) else None,
                do_sample=False,
                max_new_tokens=new,
                pad_token_id=0,
                return_dict_in_generate=True,
                stopping_criteria=[lambda ids, scores, **_: self.noted(record, ids)],
            )
        self.known, self.cache = out.sequences, out.past_key_values
        return record

    def goes_on(self, ids: torch.Tensor) -> bool:
        return self.cache is not None and torch.equal(ids[:, : self.known.shape[1]], self.known)

    def noted(self, record: Record, ids: torch.Tensor) -> torch.Tensor:
        """A criterion that sees every step and stops none."""
        for request, token in enumerate(ids[:, -1].tolist()):
            record.add(request, token)
        return torch.zeros(ids.shape[0], dtype=torch.bool)


if __name__ == "__main__":
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    serve(lambda: Transformers(*sys.argv[1:]))
