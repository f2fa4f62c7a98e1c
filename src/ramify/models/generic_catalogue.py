"""Which architectures the installed transformers has and could serve here, read from its source: importing it takes
seconds, and torch. Whether a model really can be served is found out by `generic_look`.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path

TABLES = {  # of models/auto/modeling_auto.py -> what is done with the hidden states
    "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES": "generates",
    "MODEL_MAPPING_NAMES": "vectors",
    "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES": "classes",
    "MODEL_FOR_MASKED_LM_MAPPING_NAMES": "vectors",
}
TAKES_OURS = "_supports_attention_backend = True"
CLASS = re.compile(r"^class (\w+)\(", re.MULTILINE)

# Compared with transformers in tests/cpu/test_generic.py, beside what is native: what generates, and what reads in both
# directions.
TESTED = frozenset(
    f"{name}ForCausalLM"
    for name in """
    Afmoe Apertus Arcee BitNet Cwm Ernie4_5 Ernie4_5_Moe Exaone4 ExaoneMoe
    FlexOlmo GPTBigCode GPTNeoX Glm4MoeLite Helium HunYuanDenseV1 HunYuanMoEV1 HyperCLOVAX Jais2
    Mellum MiniCPM3 MiniMaxM2 Ministral Ministral3 ModernBertDecoder NanoChat Nemotron OPT
    Olmo Olmoe Persimmon Phi Phimoe SeedOss SolarOpen Starcoder2 VaultGemma
    """.split()
) | {"CTRLLMHeadModel"}
TESTED_ENCODERS = frozenset(
    f"{name}Model"
    for name in """
    Albert Data2VecText DistilBert Electra Ernie EuroBert Gemma3Text Gte RobertaPreLayerNorm XLMRobertaXL
    """.split()
)


def catalogue() -> dict[str, bool]:
    """Every architecture that generates, and whether its attention can be replaced by ours."""
    return {name: takes for name, (use, takes) in _found().items() if use == "generates"}


def knows(architecture: str) -> bool:
    """Whether transformers has it, for whatever use of text."""
    return architecture in _found()


@cache
def _found() -> dict[str, tuple[str, bool]]:
    spec = find_spec("transformers")
    if spec is None or not spec.submodule_search_locations:
        return {}
    models = Path(spec.submodule_search_locations[0]) / "models"
    takes = {name: ours for file in models.glob("*/modeling_*.py") for name, ours in _classes(file)}
    found: dict[str, tuple[str, bool]] = {}
    for use, name in _listed(models / "auto" / "modeling_auto.py"):
        found.setdefault(name, (use, takes.get(name, False)))
    return found


def _classes(file: Path) -> list[tuple[str, bool]]:
    text = file.read_text("utf-8")
    return [(name, TAKES_OURS in text) for name in CLASS.findall(text)]


def _listed(file: Path) -> Iterator[tuple[str, str]]:
    """(use, class) of the tables, which are written as lists of pairs."""
    for statement in ast.parse(file.read_text("utf-8")).body:
        if not isinstance(statement, ast.Assign) or not isinstance(statement.value, ast.Call):
            continue
        use = TABLES.get(getattr(statement.targets[0], "id", ""))
        for _, names in ast.literal_eval(statement.value.args[0]) if use else ():
            yield from ((str(use), name) for name in ((names,) if isinstance(names, str) else names))
