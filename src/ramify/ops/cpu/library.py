"""The compiled kernels, if the installation has them: a shared library with a plain C interface, called by ctypes.

Nothing of Python or torch is compiled in, so one library serves every version of both. Calls release the GIL.
"""

from __future__ import annotations

import ctypes
import logging
import os
from functools import cache
from pathlib import Path

log = logging.getLogger(__name__)

FILE = Path(__file__).with_name("libramify_cpu.so")
VERSION = 11
ISA = "RAMIFY_CPU_ISA"  # holds a faster machine to less, for tests: one of SETS
SETS = ("generic", "avx2", "avxvnni", "avx512", "avx512vnni", "avx512bf16", "amx", "neon", "neondot")
MULTIPLYING_BF16 = ("avx512bf16", "amx")
MULTIPLYING_BYTES = ("avxvnni", "avx512vnni", "avx512bf16", "amx", "neondot")

FLAG, INT, FLOAT, POINTER = ctypes.c_int, ctypes.c_int64, ctypes.c_float, ctypes.c_void_p
SIGNATURES: dict[str, tuple[type, ...]] = {
    "ramify_threads": (FLAG,),
    "ramify_pack": (FLAG, POINTER, INT, INT, POINTER),
    "ramify_linear": (FLAG, *[POINTER] * 4, *[INT] * 5),
    "ramify_pack_int8": (FLAG, POINTER, INT, INT, POINTER),
    "ramify_linear_int8": (FLAG, *[POINTER] * 4, *[INT] * 5),
    "ramify_pack_int4": (FLAG, POINTER, INT, INT, POINTER),
    "ramify_linear_int4": (FLAG, *[POINTER] * 4, *[INT] * 5),
    "ramify_embed_int8": (POINTER, INT, POINTER, INT, POINTER),
    "ramify_embed": (FLAG, POINTER, INT, POINTER, INT, POINTER),
    "ramify_norm": (FLAG, *[POINTER] * 3, FLOAT, FLOAT, INT, INT, POINTER, POINTER),
    "ramify_activation": (FLAG, FLAG, FLAG, POINTER, INT, INT, POINTER),
    "ramify_softcap": (POINTER, FLOAT, INT),
    "ramify_grouped": (FLAG, *[POINTER] * 5, *[INT] * 3),
    "ramify_combine": (FLAG, *[POINTER] * 3, *[INT] * 3, POINTER),
    "ramify_qkv_rope": (FLAG, FLAG, *[POINTER] * 9, FLOAT, FLOAT, *[INT] * 7),
    "ramify_sample": (*[POINTER] * 9, INT, INT),
    "ramify_attention": (FLAG, FLAG, *[POINTER] * 9, FLOAT, FLOAT, *[INT] * 11),
    "ramify_conv": (FLAG, *[POINTER] * 10, *[INT] * 4),
    "ramify_ssd": (FLAG, *[POINTER] * 12, INT, FLOAT, FLOAT, *[INT] * 5),
    "ramify_delta": (FLAG, *[POINTER] * 12, *[INT] * 7),
    "ramify_lora": (FLAG, *[POINTER] * 4, *[INT] * 6),
    "ramify_uniform": (*[POINTER] * 3, INT, INT, POINTER),
    "ramify_layer_norm": (FLAG, *[POINTER] * 4, FLOAT, INT, INT, POINTER, POINTER),
    "ramify_rotate_qk": (FLAG, *[POINTER] * 3, *[INT] * 3),
    "ramify_texts": (FLAG, *[POINTER] * 4, FLOAT, *[INT] * 4),
}


@cache
def load(file: Path = FILE) -> ctypes.CDLL | None:
    """None where they were not compiled, or not for this version."""
    try:
        library = ctypes.CDLL(str(file))
    except OSError:
        return None
    if library.ramify_version() != VERSION:
        log.warning("%s is of another version: install ramify again", file.name)
        return None
    for name, arguments in SIGNATURES.items():
        function = getattr(library, name)
        function.argtypes, function.restype = arguments, None
    library.ramify_isa.restype = library.ramify_choose.restype = ctypes.c_char_p
    library.ramify_choose.argtypes = library.ramify_replayable.argtypes = (ctypes.c_char_p,)
    library.ramify_replayable.restype = ctypes.c_void_p
    library.ramify_replay.argtypes, library.ramify_replay.restype = (POINTER, INT), None
    if most := os.environ.get(ISA):
        library.ramify_choose(most.encode())
    return library


def instruction_set() -> str | None:
    """What the kernels use of this machine, of `SETS`. None: there are none."""
    library = load()
    return None if library is None else str(library.ramify_isa().decode())
