"""Every field of OpenAI's and SGLang's requests is known: honoured, without effect, or refused by name."""

from __future__ import annotations

import pytest
import yaml

from assets import shared
from ramify.core.params import SamplingParams
from ramify.server.routes import ROUTES

SGLANG = {
    "/generate": """
        text input_ids input_embeds sampling_params stream rid return_logprob logprob_start_len top_logprobs_num
        token_ids_logprob return_text_in_logprobs return_flat_raw_top_logprobs return_flat_raw_output_top_logprobs
        return_flat_raw_top_logprobs_b64 return_sampling_mask sampling_logprobs_mode image_data video_data audio_data
        modalities mm_hashes mm_content_hashes use_audio_in_video video_config max_dynamic_patch min_dynamic_patch
        image_max_dynamic_patch video_max_dynamic_patch images_config mm_processor_kwargs lora_path session_params
        session_id conversation_id routing_key extra_key cache_salt priority custom_labels no_logs log_metrics
        custom_logit_processor return_hidden_states return_routed_experts routed_experts_start_len return_indexer_topk
        return_prompt_token_ids return_entropy return_bytes bootstrap_host bootstrap_port bootstrap_room
        bootstrap_pair_key decode_tp_size routed_dp_rank data_parallel_rank disagg_prefill_dp_rank require_reasoning
        max_thinking_tokens kv_hints background watermark positional_embed_overrides multi_item_delimiter_indices
        token_indices_to_pool""",
    "/v1/chat/completions": """
        messages model top_k min_p min_tokens regex ebnf repetition_penalty stop_token_ids stop_regex no_stop_trim
        ignore_eos continue_final_message skip_special_tokens lora_path session_id session_params separate_reasoning
        stream_reasoning chat_template_kwargs reasoning thinking task max_dynamic_patch min_dynamic_patch
        use_audio_in_video images_config video_config mm_processor_kwargs custom_logit_processor custom_params watermark
        rid extra_key cache_salt priority data_parallel_rank routed_dp_rank disagg_prefill_dp_rank
        bootstrap_host bootstrap_port bootstrap_room return_hidden_states return_routed_experts
        routed_experts_start_len return_cached_tokens_details return_spec_tokens_details return_prompt_token_ids
        return_token_ids return_meta_info return_input_ids_in_sglext return_output_ids_in_sglext return_sampling_mask
        sampling_logprobs_mode return_flat_raw_output_top_logprobs return_flat_raw_top_logprobs_b64 input_ids""",
    "/v1/completions": """
        prompt model json_schema regex ebnf response_format top_k min_p min_tokens repetition_penalty stop_token_ids
        stop_regex no_stop_trim ignore_eos skip_special_tokens lora_path session_id session_params custom_params
        custom_logit_processor watermark images_config mm_processor_kwargs data_parallel_rank rid extra_key cache_salt
        priority custom_labels return_hidden_states return_routed_experts routed_experts_start_len return_token_ids
        return_cached_tokens_details return_spec_tokens_details""",
    "/v1/embeddings": """
        input model encoding_format dimensions user rid priority lora_path embed_override_token_id embed_overrides""",
    "/v1/classify": "model input user rid priority",
    "/v1/rerank": "query documents instruct top_n return_documents",
    "/v1/score": """
        query items embed_override_token_id query_embed_overrides item_embed_overrides label_token_ids apply_softmax
        temperature return_token_logprobs item_first return_pooled_hidden_states score_extraction_token model""",
    "/encode": """
        rid text input_ids input_embeds image_data video_data audio_data embed_override_token_id embed_overrides
        sampling_params log_metrics modalities is_cross_encoder_request lora_path lora_id positional_embed_overrides
        routing_key http_worker_ipc background priority dimensions return_pooled_hidden_states return_prompt_token_ids
        external_trace_header received_time multi_item_delimiter_indices token_indices_to_pool decision_layout""",
}
OPENAI = {
    "/v1/embeddings": "CreateEmbeddingRequest",
    "/v1/chat/completions": "CreateChatCompletionRequest",
    "/v1/completions": "CreateCompletionRequest",
}


def known(path: str) -> set[str]:
    (route,) = [route for route in ROUTES if route.path == path]
    assert route.takes is not None
    return {name for name, _, _ in route.takes.table()}


@pytest.mark.parametrize("path", SGLANG)
def test_sglang(path: str) -> None:
    assert set(SGLANG[path].split()) - known(path) == set()


def test_openai() -> None:
    with shared("specs/openai/openapi.yaml").open() as file:
        schemas = yaml.load(file, Loader=yaml.CSafeLoader)["components"]["schemas"]

    def properties(name: str) -> set[str]:
        found = set(schemas[name].get("properties", {}))
        for part in schemas[name].get("allOf", []):
            found |= properties(part["$ref"].rpartition("/")[2]) if "$ref" in part else set(part.get("properties", {}))
        return found

    for path, name in OPENAI.items():
        assert len(properties(name)) >= 5
        assert properties(name) - known(path) == set()


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/generate", "sampling_params.spaces_between_special_tokens"),
        ("/v1/chat/completions", "stream_options.include_obfuscation"),
        ("/v1/completions", "stream_options.include_obfuscation"),
    ],
)
def test_what_has_no_effect_inside_a_field_is_named_too(path: str, name: str) -> None:
    (route,) = [route for route in ROUTES if route.path == path]
    assert route.takes is not None
    assert (name, "no effect") in {row[:2] for row in route.takes.table()}


def test_sampling_params_without_effect_are_taken() -> None:
    assert SamplingParams.parse({"spaces_between_special_tokens": False, "n": 2}) == SamplingParams(n=2)
