"""The compiled kernels for instructions that this machine lacks, which SIMDe puts together from those it has.

Slow to compile and slower to run: for what is computed, not for how fast.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

from ramify.ops.cpu.library import FILE, load

SIMDE = Path("/usr/include/simde/x86/avx512.h")
SOURCES = FILE.parent / "csrc"
HEADER = Path(__file__).with_suffix(".h")
HEADER_OF_ARM = Path(__file__).with_name("emulated_arm.h")
AVX2 = ("-mavx2", "-mfma")
EMULATING = (*AVX2, "-include", str(HEADER), "-fno-tree-sra")  # GCC 12 falls over what it makes of structs of structs
NEON = (*AVX2, "-DRAMIFY_NEON")
Unit = tuple[str, str, tuple[str, ...]]  # file, instruction set, flags
UNITS: tuple[Unit, ...] = (
    ("linears", "generic", ()),
    ("others", "generic", ()),
    ("linears", "avx2", AVX2),
    ("others", "avx2", AVX2),
    ("linears", "avxvnni", (*EMULATING, "-DEMULATE_AVXVNNI")),
    ("linears", "avx512", EMULATING),
    ("others", "avx512", EMULATING),
    ("linears", "avx512vnni", (*EMULATING, "-DEMULATE_VNNI")),
    ("linears", "avx512bf16", (*EMULATING, "-DEMULATE_VNNI", "-DEMULATE_BF16")),
    ("linears", "amx", (*EMULATING, "-DEMULATE_VNNI", "-DEMULATE_BF16", "-DEMULATE_AMX")),
)
UNITS_OF_ARM: tuple[Unit, ...] = (
    ("linears", "generic", ()),
    ("others", "generic", ()),
    ("linears", "neon", NEON),
    ("others", "neon", NEON),
    ("linears", "neondot", (*NEON, "-DRAMIFY_DOT")),
)
OURS = ("-w", "-std=c++17", "-O1", "-fPIC", "-fno-math-errno")
DISPATCH = ("-include", str(HEADER), *AVX2, "-DRAMIFY_X86", "-DRAMIFY_AVXVNNI", "-DRAMIFY_AVX512BF16", "-DRAMIFY_AMX")
DISPATCH_OF_ARM = ("-include", str(HEADER_OF_ARM), "-DRAMIFY_ARM", "-DRAMIFY_NEONDOT")


def there(name: str) -> bool:
    """Whether this machine has an instruction set, and the kernels were compiled."""
    made = load()
    if made is None:
        return False
    best = made.ramify_isa()
    found = made.ramify_choose(name.encode()).decode()
    made.ramify_choose(best)
    return bool(found == name)


def possible() -> bool:
    """With the AVX2 that it is put together from."""
    return there("avx2") and SIMDE.exists() and shutil.which("g++") is not None


def emulated(name: str) -> ctypes.CDLL:
    """A library with the kernels for an instruction set, and others of its kind."""
    if name.startswith("neon"):
        return _library((*UNITS_OF_ARM, ("dispatch", "none", DISPATCH_OF_ARM)))
    return _library((*UNITS, ("dispatch", "none", DISPATCH)))


@cache
def _library(units: tuple[Unit, ...]) -> ctypes.CDLL:
    """Takes about two minutes."""
    with tempfile.TemporaryDirectory(prefix="ramify-emulated-") as folder:
        shutil.copy(HEADER_OF_ARM, Path(folder) / "arm_neon.h")
        made = [_compiled(Path(folder), *unit) for unit in (*units, ("pool", "none", ()))]
        library = Path(folder) / "libemulated.so"
        subprocess.run(["g++", "-shared", "-o", library, *made, "-lpthread"], check=True)
        loaded = load(library)
    assert loaded is not None
    return loaded


def _compiled(folder: Path, source: str, isa: str, flags: tuple[str, ...]) -> Path:
    out = folder / f"{source}_{isa}.o"
    subprocess.run(
        ["g++", *OURS, f"-I{folder}", *flags, f"-DRAMIFY_ISA={isa}", "-c", SOURCES / f"{source}.cpp", "-o", out],
        check=True,
    )
    return out
