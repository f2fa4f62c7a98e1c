"""Tool-call formats whose arguments stand between marks, as in XML."""

from __future__ import annotations

from ramify.text.tools.bodies import Pairs
from ramify.text.tools.format import Shape, ToolFormat
from ramify.text.tools.parts import Name

CODER_PAIRS = Pairs("<parameter=", ">", "</parameter>", "</function>", newlines=True)
QWEN3_CODER = ToolFormat(
    "qwen3_coder",
    (
        Shape(
            "<tool_call>\n<function=",
            Name(),
            ">\n",
            body=CODER_PAIRS,
            after=("</function>", "\n</tool_call>"),
            separators=("\n",),
        ),
        Shape(
            "<function=", Name(), ">\n", body=CODER_PAIRS, after=("</function>", "\n</tool_call>"), separators=("\n",)
        ),
    ),
    signs=(("<tool_call>", "<function=", "<parameter="),),
)

SEED_OSS = ToolFormat(
    "seed_oss",
    (
        Shape(
            "<seed:tool_call>\n<function=",
            Name(),
            ">\n",
            body=Pairs("<parameter=", ">", "</parameter>", "</function>"),
            after=("</function>", "\n</seed:tool_call>"),
            separators=("\n",),
        ),
    ),
    signs=(("<seed:tool_call>", "<parameter="),),
)

GLM_PAIRS = Pairs("<arg_key>", "</arg_key>\n<arg_value>", "</arg_value>", "</tool_call>")
GLM45 = ToolFormat(
    "glm45",
    (Shape("<tool_call>", Name(), "\n", body=GLM_PAIRS, after=("</tool_call>",), separators=("\n",)),),
    signs=(("<tool_call>", "<arg_key>", "<arg_value>"),),
)

DSML_PAIRS = Pairs('<｜DSML｜parameter name="', '">', "</｜DSML｜parameter>", "</｜DSML｜invoke>", flag='" string="')


def _dsml(name: str, section: str) -> ToolFormat:
    return ToolFormat(
        name,
        (
            Shape(
                '<｜DSML｜invoke name="',
                Name(),
                '">\n',
                body=DSML_PAIRS,
                after=("</｜DSML｜invoke>",),
                begin=(f"<｜DSML｜{section}>\n",),
                separators=("\n",),
                end=(f"</｜DSML｜{section}>",),
            ),
        ),
        signs=(("｜DSML｜", f"{section}>"),),
    )


DEEPSEEK_V32 = _dsml("deepseekv32", "function_calls")
DEEPSEEK_V4 = _dsml("deepseekv4", "tool_calls")

MINIMAX_M2 = ToolFormat(
    "minimax-m2",
    (
        Shape(
            '<invoke name="',
            Name(),
            '">\n',
            body=Pairs('<parameter name="', '">', "</parameter>", "</invoke>"),
            after=("</invoke>",),
            begin=("<minimax:tool_call>\n",),
            separators=("\n",),
            end=("</minimax:tool_call>",),
        ),
    ),
    signs=(("<minimax:tool_call>",),),
)

STEP3 = ToolFormat(
    "step3",
    (
        Shape(
            '<｜tool_call_begin｜>function<｜tool_sep｜><steptml:invoke name="',
            Name(),
            '">',
            body=Pairs('<steptml:parameter name="', '">', "</steptml:parameter>", "</steptml:invoke>"),
            after=("</steptml:invoke>", "<｜tool_call_end｜>"),
            begin=("<｜tool_calls_begin｜>",),
            separators=("",),
            end=("<｜tool_calls_end｜>",),
        ),
    ),
    signs=(("<｜tool_calls_begin｜>", "<steptml:invoke"),),
)
