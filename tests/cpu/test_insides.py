"""What comes out of a model besides tokens, and what goes in instead of them: exactly what transformers computes."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from models import FAMILIES, save
from transformers import PreTrainedModel

import ramify
from ramify import BadRequest
from ramify.engine import ask

GREEDY = {"temperature": 0, "max_new_tokens": 12, "ignore_eos": True}
WIDTH = 64
TOLERANCE = 2e-4


@pytest.fixture(scope="module", params=["llama3", "qwen2.5-tied", "qwen3"])
def tiny(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, PreTrainedModel]:
    assert request.param in FAMILIES
    folder = tmp_path_factory.mktemp("model") / request.param
    return folder, save(request.param, folder)


def make(folder: Path, **settings: Any) -> ramify.Engine:
    settings = {"skip_tokenizer_init": True, "threads": 1, "max_total_tokens": 4096, "dtype": "float32", **settings}
    return ramify.Engine(str(folder), enable_return_hidden_states=True, **settings)


def prompt_of(seed: int, length: int) -> list[int]:
    rnd = random.Random(seed)
    return [rnd.randrange(3, 211) for _ in range(length)]


def reference_states(model: PreTrainedModel, tokens: list[int]) -> torch.Tensor:
    """After the last norm, [tokens, hidden]."""
    with torch.inference_mode():
        return model.model(torch.tensor([tokens])).last_hidden_state[0].float()


def told(output: dict[str, Any]) -> torch.Tensor:
    """[positions, hidden], joined as the users of SGLang do it."""
    parts = [torch.tensor(part) for part in output["meta_info"]["hidden_states"]]
    return torch.cat([part if part.dim() == 2 else part[None] for part in parts])


def check(output: dict[str, Any], model: PreTrainedModel, prompt: list[int]) -> None:
    tokens = [*prompt, *output["output_ids"]]
    states = told(output)
    assert states.shape == (len(tokens) - 1, WIDTH)
    assert len(output["meta_info"]["hidden_states"][0]) == len(prompt)
    reference = reference_states(model, tokens[:-1])
    assert float((states - reference).abs().max()) < TOLERANCE * float(reference.abs().max())


@pytest.mark.parametrize("settings", [{}, {"chunked_prefill_size": 7, "page_size": 1}], ids=["whole", "chunked"])
def test_hidden_states(tiny: tuple[Path, PreTrainedModel], settings: dict[str, Any]) -> None:
    """Of the whole prompt and of each token that was read, alone, from a warm cache and in a batch."""
    folder, model = tiny
    prompts = [prompt_of(n, 20 + 9 * n) for n in range(4)]
    with make(folder, **settings) as engine:
        for _ in ("cold", "warm"):
            output = engine.generate(input_ids=prompts[0], sampling_params=GREEDY, return_hidden_states=True)
            check(output, model, prompts[0])
        asked = [True, "full", "last", False]
        outputs = engine.generate(input_ids=prompts, sampling_params=GREEDY, return_hidden_states=asked)
    for output, prompt in zip(outputs[:2], prompts, strict=False):
        check(output, model, prompt)
    (last,) = outputs[2]["meta_info"]["hidden_states"]
    reference = reference_states(model, [*prompts[2], *outputs[2]["output_ids"][:-1]])[-1]
    assert torch.allclose(torch.tensor(last), reference, atol=TOLERANCE * float(reference.abs().max()))
    assert "hidden_states" not in outputs[3]["meta_info"]


def test_hidden_states_survive_preemption(tiny: tuple[Path, PreTrainedModel]) -> None:
    folder, model = tiny
    prompts = [prompt_of(n, 40) for n in range(6)]
    params = {**GREEDY, "max_new_tokens": 60}
    with make(folder, max_total_tokens=256) as engine:
        outputs = engine.generate(input_ids=prompts, sampling_params=params, return_hidden_states=True)
    assert sum(output["meta_info"]["num_retractions"] for output in outputs) > 0
    for output, prompt in zip(outputs, prompts, strict=True):
        check(output, model, prompt)


def test_a_prompt_alone_and_the_last_chunk_of_a_stream(tiny: tuple[Path, PreTrainedModel]) -> None:
    folder, model = tiny
    prompt = prompt_of(1, 30)
    with make(folder) as engine:
        nothing = {"max_new_tokens": 0}
        output = engine.generate(input_ids=prompt, sampling_params=nothing, return_hidden_states=True)
        assert torch.allclose(told(output), reference_states(model, prompt), atol=1e-3)
        (last,) = engine.generate(input_ids=prompt, sampling_params=nothing, return_hidden_states="last")["meta_info"][
            "hidden_states"
        ]
        assert last == pytest.approx(output["meta_info"]["hidden_states"][0][-1], abs=1e-4)
        chunks = list(engine.generate(input_ids=prompt, sampling_params=GREEDY, return_hidden_states=True, stream=True))
    assert ["hidden_states" in chunk["meta_info"] for chunk in chunks] == [False] * 11 + [True]
    check(chunks[-1], model, prompt)


def test_hidden_states_that_are_refused(tiny: tuple[Path, PreTrainedModel], monkeypatch: pytest.MonkeyPatch) -> None:
    folder, _ = tiny
    plain = ramify.Engine(str(folder), skip_tokenizer_init=True, threads=1, max_total_tokens=4096)
    with plain, pytest.raises(BadRequest, match="--enable-return-hidden-states"):
        plain.generate(input_ids=[5], return_hidden_states=True)
    with make(folder) as engine:
        with pytest.raises(BadRequest, match='"last" or "full"'):
            engine.generate(input_ids=[5], return_hidden_states="first")
        params = {"n": 128, "max_new_tokens": 500}
        monkeypatch.setattr(ask, "MAX_HIDDEN", 1 << 20)
        with pytest.raises(BadRequest, match="hidden states of 64128 positions"):
            engine.generate(input_ids=[5], sampling_params=params, return_hidden_states=True)


# -- vectors as prompts ------------------------------------------------------------------------------------------------


def vectors_of(model: PreTrainedModel, tokens: list[int]) -> Any:
    with torch.inference_mode():
        return model.get_input_embeddings()(torch.tensor(tokens))


@pytest.mark.parametrize("settings", [{}, {"chunked_prefill_size": 7, "page_size": 1}], ids=["whole", "chunked"])
def test_embedded_tokens_are_tokens(tiny: tuple[Path, PreTrainedModel], settings: dict[str, Any]) -> None:
    folder, model = tiny
    prompts = [prompt_of(n, 20 + 9 * n) for n in range(4)]
    with make(folder, **settings) as engine:
        by_ids = [engine.generate(input_ids=p, sampling_params=GREEDY)["output_ids"] for p in prompts]
        alone = [engine.generate(input_embeds=vectors_of(model, p), sampling_params=GREEDY) for p in prompts]
        assert [output["meta_info"]["cached_tokens"] for output in alone] == [0] * 4
        given = [vectors_of(model, p).tolist() for p in prompts]
        together = engine.generate(input_embeds=given, sampling_params=GREEDY, return_hidden_states=True)
        again = engine.generate(input_embeds=given, sampling_params=GREEDY)
    assert by_ids == [output["output_ids"] for output in alone] == [output["output_ids"] for output in together]
    for output, prompt in zip(together, prompts, strict=True):
        check(output, model, prompt)
    assert [o["meta_info"]["cached_tokens"] for o in again] == [len(prompt) - 1 for prompt in prompts]


def test_vectors_that_are_no_tokens(tiny: tuple[Path, PreTrainedModel]) -> None:
    folder, model = tiny
    torch.manual_seed(3)
    vectors = torch.randn(25, WIDTH) * 0.15
    with make(folder, chunked_prefill_size=8) as engine:
        output = engine.generate(input_embeds=vectors, sampling_params=GREEDY, return_hidden_states=True)
    outputs = vectors_of(model, output["output_ids"][:-1])
    with torch.inference_mode():
        reference = model.model(inputs_embeds=torch.cat([vectors, outputs])[None]).last_hidden_state[0]
    assert torch.allclose(told(output), reference, atol=TOLERANCE * float(reference.abs().max()))


def test_vectors_survive_preemption(tiny: tuple[Path, PreTrainedModel]) -> None:
    folder, model = tiny
    prompts = [prompt_of(n, 40) for n in range(6)]
    params = {**GREEDY, "max_new_tokens": 60}
    with make(folder) as engine:
        reference = [engine.generate(input_ids=p, sampling_params=params)["output_ids"] for p in prompts]
    with make(folder, max_total_tokens=256) as engine:
        outputs = engine.generate(input_embeds=[vectors_of(model, p) for p in prompts], sampling_params=params)
    assert sum(output["meta_info"]["num_retractions"] for output in outputs) > 0
    assert [output["output_ids"] for output in outputs] == reference


@pytest.mark.parametrize(
    ("call", "says"),
    [
        ({"input_embeds": [[1.0] * 63]}, "vectors of 64 numbers"),
        ({"input_embeds": torch.full((3, WIDTH), torch.nan)}, "not finite"),
        ({"input_embeds": [[1.0] * WIDTH], "input_ids": [1]}, "one of"),
        ({"input_embeds": []}, "list of vectors"),
        ({"input_embeds": "x"}, "list of vectors"),
        ({"input_embeds": torch.zeros(600, WIDTH)}, "longer than the model's context"),
        ({"input_embeds": torch.zeros(3, WIDTH), "return_logprob": True, "logprob_start_len": 0}, "no tokens"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_vectors_that_are_refused(tiny: tuple[Path, PreTrainedModel], call: dict[str, Any], says: str) -> None:
    folder, _ = tiny
    with make(folder) as engine, pytest.raises(BadRequest, match=says):
        engine.generate(**call)
