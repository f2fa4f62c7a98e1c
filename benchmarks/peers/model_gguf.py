"""Writes the checkpoint as GGUF, in bfloat16 and in Q8_0: python model_gguf.py CHECKPOINT BF16_FILE Q8_0_FILE

Runs where `gguf` and llama-cpp-python are installed, without torch: safetensors is a header of JSON and raw numbers.
The vocabulary is `no_vocab`: prompts are token ids.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import gguf
import llama_cpp
import numpy as np

Tensors = Iterator[tuple[str, "np.ndarray"]]


def tensors(file: Path) -> Tensors:
    """Names, and numbers as the 16 bits that they are in bfloat16."""
    data = np.memmap(file, np.uint8, "r")
    start = 8 + int(data[:8].view("<u8")[0])
    header = json.loads(bytes(data[8:start]))
    header.pop("__metadata__", None)
    for name, entry in header.items():
        if entry["dtype"] != "BF16":
            raise SystemExit(f"{file}: {name} is {entry['dtype']}, expected BF16")
        begin, end = entry["data_offsets"]
        yield name, data[start + begin : start + end].view("<u2").reshape(entry["shape"])


def add_shape(writer: gguf.GGUFWriter, config: dict[str, object]) -> None:
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("no_vocab")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_BF16)


def add_tensor(writer: gguf.GGUFWriter, name: str, bits: np.ndarray) -> None:
    """Matrices stay bfloat16; vectors become float32, as in GGUF files of llama.cpp's own converter."""
    if bits.ndim == 1:
        writer.add_tensor(name, (bits.astype(np.uint32) << 16).view(np.float32))
    else:
        writer.add_tensor(name, np.ascontiguousarray(bits).view(np.uint8), raw_dtype=gguf.GGMLQuantizationType.BF16)


def write(checkpoint: Path, to: Path) -> None:
    config = json.loads((checkpoint / "config.json").read_text())
    writer = gguf.GGUFWriter(to, "qwen3")
    add_shape(writer, config)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN3, config["num_hidden_layers"])
    for name, bits in tensors(checkpoint / "model.safetensors"):
        add_tensor(writer, names.get_name(name, try_suffixes=(".weight",)), bits)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def quantize(file: Path, to: Path) -> None:
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0
    if llama_cpp.llama_model_quantize(str(file).encode(), str(to).encode(), params):
        raise SystemExit(f"llama.cpp did not quantize {file}")


if __name__ == "__main__":
    source, bf16, q8_0 = map(Path, sys.argv[1:])
    write(source, bf16)
    quantize(bf16, q8_0)
