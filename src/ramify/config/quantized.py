"""What the `quantization_config` of a `config.json` says: who quantized the weights, and which modules were left out.

How many bits, which groups and which type is not taken from here: tensors show it, and they are what is computed with.
What would change the arithmetic and is not computed here is refused by name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ramify.config.fields import Raw
from ramify.core.errors import StartupError

WHERE = "config.json: quantization_config"
OTHER_NAMES = {"compressed_tensors": "compressed-tensors", "fbgemm_fp8": "fp8", "gptqmodel": "gptq"}
SKIPPED = ("ignore", "ignored_layers", "modules_to_not_convert", "llm_int8_skip_modules")  # names of the same list
REGEX = "re:"  # begins a pattern that is one
MAX_PATTERNS = 65536
MOST_INPUTS = 1 << 17  # products of int8 that add up in int32 without a wrap: 127 * 127 * 2^17 < 2^31
REFUSED = {
    "aqlm": "vector codes",
    "auto-round": "its own packing",
    "bitnet": "ternary weights",
    "eetq": "its own packing",
    "fp_quant": "Hadamard transforms",
    "higgs": "vector codes",
    "hqq": "its own packing",
    "modelopt": "its own scales",
    "quanto": "its own packing",
    "quark": "its own packing",
    "spqr": "sparse outliers",
    "torchao": "pickled layouts",
    "vptq": "vector codes",
}
INSTEAD = (
    "Serve the checkpoint that it was made from, quantized while it is loaded (--quantization w8a8 or int4), or one in "
    "another format: FP8, compressed-tensors, GPTQ, AWQ, bitsandbytes, MXFP4, GGUF."
)


@dataclass(frozen=True)
class Quantized:
    """`stored` is the smallest form that most linears can be computed in: `int8`, `int4`, `int4 with offsets`, or
    `float`: the model's own type. `ignored` are patterns of modules that stay as they were. `block` is the outputs and
    inputs that share a scale, where they come in blocks. `version` tells dialects of a method apart. `counts` are
    weights by type, where a file tells (GGUF).
    """

    method: str
    stored: str
    ignored: tuple[str, ...] = ()
    block: tuple[int, int] | None = None
    version: str = ""
    counts: tuple[tuple[str, int], ...] = ()

    def ignores(self, module: str) -> bool:
        return any(_matches(pattern, module) for pattern in self.ignored)

    @property
    def computed(self) -> str:
        """For people."""
        return {
            "int8": "computed in int8, inputs in int8 with a scale per row",
            "int4": "computed in four bits, inputs in int8 with a scale per row and 32 inputs; scales in bfloat16",
            "int4 with offsets": "computed in four bits with an offset per group, inputs in int8 with a scale per row "
            "and 32 inputs; scales in bfloat16",
            "float": "dequantized block by block while they are loaded, computed in the model's type",
        }[self.stored]


def quantized_of(raw: Raw) -> Quantized | None:
    """From the contents of a `config.json`; None where weights are as they were trained."""
    given = raw.get("quantization_config", raw.get("compression_config"))
    if given is None:
        return None
    if not isinstance(given, dict):
        raise StartupError(f"{WHERE} should be an object")
    method = given.get("quant_method")
    method = OTHER_NAMES.get(method, method) if isinstance(method, str) else str(method)
    if method not in METHODS:
        what = f", which has {REFUSED[method]}" if method in REFUSED else ""
        raise StartupError(f"{WHERE}: quant_method {method!r}{what}, is not supported", INSTEAD)
    return METHODS[method](given)


# -- methods -----------------------------------------------------------------------------------------------------------


def _fp8(given: Raw) -> Quantized:
    fmt = given.get("fmt", "e4m3")
    if fmt not in ("e4m3", "float8_e4m3fn"):
        raise StartupError(f"{WHERE}: fmt {fmt!r} is not supported", "Supported: e4m3.")
    return Quantized("fp8", "float", _patterns(given), _block(given.get("weight_block_size"), "weight_block_size"))


COMPRESSED = ("dense", "int-quantized", "float-quantized", "naive-quantized", "pack-quantized", "mxfp4-pack-quantized")


def _compressed(given: Raw) -> Quantized:
    groups = given.get("config_groups") or {}
    if not isinstance(groups, dict) or not all(isinstance(group, dict) for group in groups.values()):
        raise StartupError(f"{WHERE}: config_groups should be an object of objects")
    sparsity = given.get("sparsity_config") or {}
    if isinstance(sparsity, dict) and sparsity.get("format", "dense") != "dense":
        raise StartupError(f"{WHERE}: sparsity_config.format {sparsity['format']!r} is not supported", INSTEAD)
    if given.get("transform_config"):
        raise StartupError(f"{WHERE}: transform_config changes what is computed and is not supported", INSTEAD)
    whole = str(given.get("format", "dense"))
    formats = {str(group.get("format") or whole) for group in groups.values()} or {whole}
    for name in formats - set(COMPRESSED):
        raise StartupError(f"{WHERE}: format {name!r} is not supported", f"Supported: {', '.join(COMPRESSED)}.")
    weights = [group.get("weights") or {} for group in groups.values()]
    kinds = {_compressed_kind(each) for each in weights if isinstance(each, dict) and each}
    blocks = {_block(each.get("block_structure"), "block_structure") for each in weights if isinstance(each, dict)}
    if len(blocks - {None}) > 1:
        raise StartupError(f"{WHERE}: groups with blocks of several sizes are not supported", INSTEAD)
    stored = kinds.pop() if len(kinds) == 1 else "float"
    return Quantized("compressed-tensors", stored, _patterns(given), next(iter(blocks - {None}), None))


def _compressed_kind(weights: Raw) -> str:
    bits, symmetric = weights.get("num_bits", 8), weights.get("symmetric", True)
    if weights.get("type", "int") == "int" and bits == 8 and symmetric and weights.get("strategy") != "group":
        return "int8"
    if weights.get("type", "int") == "int" and bits == 4 and (weights.get("group_size") or 32) in GROUPS:
        return "int4" if symmetric else "int4 with offsets"
    return "float"


GROUPS = (-1, 32, 64, 96, 128, 256, 512, 1024)  # of inputs that share a scale, which the kernel's 32 divide


def _gptq(given: Raw) -> Quantized:
    bits = given.get("bits")
    if bits not in (4, 8):
        raise StartupError(f"{WHERE}: bits {bits!r} of GPTQ is not supported", "Supported: 4, 8.")
    version = str(given.get("checkpoint_format") or "gptq")
    if version not in ("gptq", "gptq_v2"):
        raise StartupError(
            f"{WHERE}: checkpoint_format {version!r} is not supported",
            "Supported: gptq, gptq_v2. Others are laid out for one kind of GPU.",
        )
    small = bits == 4 and given.get("group_size", 128) in GROUPS
    stored = "float" if not small else "int4" if given.get("sym", True) else "int4 with offsets"
    if bits == 8 and given.get("group_size") == -1 and given.get("sym", True):
        stored = "int8"
    return Quantized("gptq", stored, _patterns(given), version=version)


def _awq(given: Raw) -> Quantized:
    if given.get("bits", given.get("w_bit", 4)) != 4:
        raise StartupError(f"{WHERE}: bits {given.get('bits')!r} of AWQ is not supported", "Supported: 4.")
    version = str(given.get("version") or given.get("format") or "gemm").lower()
    if version != "gemm":
        raise StartupError(f"{WHERE}: version {version!r} of AWQ is not supported", "Supported: gemm.")
    group = given.get("group_size", given.get("q_group_size", 128))
    return Quantized("awq", "int4 with offsets" if group in GROUPS else "float", _patterns(given))


def _bitsandbytes(given: Raw) -> Quantized:
    if given.get("load_in_8bit"):
        return Quantized("bitsandbytes", "int8", _patterns(given))
    if given.get("load_in_4bit"):
        return Quantized("bitsandbytes", "float", _patterns(given))
    raise StartupError(f"{WHERE} of bitsandbytes has neither load_in_8bit nor load_in_4bit")


def _gguf(given: Raw) -> Quantized:
    """Written by `config.gguf`, from the types of a file's tensors."""
    counts = tuple(sorted(given["counts"].items()))
    most = max(counts, key=lambda each: each[1], default=("F32", 0))[0]
    stored = {"Q4_0": "int4", "Q4_1": "int4 with offsets", "Q4_K": "int4 with offsets"}.get(most, "float")
    return Quantized("gguf", stored, version=most, counts=counts)


METHODS = {
    "fp8": _fp8,
    "compressed-tensors": _compressed,
    "gptq": _gptq,
    "awq": _awq,
    "bitsandbytes": _bitsandbytes,
    "mxfp4": lambda given: Quantized("mxfp4", "float", _patterns(given)),
    "gguf": _gguf,
}


# -- fields ------------------------------------------------------------------------------------------------------------


def _block(value: Any, key: str) -> tuple[int, int] | None:
    if value is None:
        return None
    if not isinstance(value, list) or len(value) != 2 or not all(type(n) is int and 0 < n <= 65536 for n in value):
        raise StartupError(f"{WHERE}: {key} should be two positive numbers and is {value!r}")
    return value[0], value[1]


def _patterns(given: Raw) -> tuple[str, ...]:
    found: list[str] = []
    for key in SKIPPED:
        patterns = given.get(key) or []
        if not isinstance(patterns, list) or not all(isinstance(each, str) for each in patterns):
            raise StartupError(f"{WHERE}: {key} should be a list of names")
        found += patterns
    if len(found) > MAX_PATTERNS:
        raise StartupError(f"{WHERE}: more than {MAX_PATTERNS} modules are left out")
    for pattern in found:
        _check_pattern(pattern)
    return tuple(found)


def _check_pattern(pattern: str) -> None:
    import re2  # only where it is needed: kernels are tried on machines that do not have it

    try:
        if pattern.startswith(REGEX) or "*" in pattern:
            re2.compile(pattern.removeprefix(REGEX))
    except re2.error as e:
        raise StartupError(f"{WHERE}: the pattern {pattern!r:.100} cannot be read: {e}") from None


def _matches(pattern: str, module: str) -> bool:
    """A pattern is a path, the beginning or the end or the middle of one, or behind `re:`, or with a star, a regex."""
    if pattern.startswith(REGEX) or "*" in pattern:
        import re2

        return re2.match(pattern.removeprefix(REGEX), module) is not None
    return f".{pattern}." in f".{module}."
