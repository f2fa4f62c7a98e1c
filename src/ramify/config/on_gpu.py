"""What a GPU decides of a run. Not yet seen on one: sizes that are estimates say so."""

from __future__ import annotations

from ramify.config.gpu import Gpu
from ramify.config.memory import GIB, MIB, Peak, Sized
from ramify.config.model import ModelConfig
from ramify.config.notes import Notes
from ramify.config.quantized import quantized_of
from ramify.config.settings import Settings
from ramify.config.stored import ELEMENT_BYTES
from ramify.config.target import SPELLINGS, Invariance
from ramify.core.errors import StartupError

OURS = ("w8a8", "int4")  # of these embedding and head are in int8, so that no linear is cuBLAS's
BACKENDS = ("triton", "flashinfer", "fa3", "reference")  # of attention
ON_THE_HOST = ("flashinfer", "reference")  # those that look at numbers there
CONTEXT = GIB  # an estimate: CUDA's context, cuBLAS's workspaces, compiled kernels, what lies between tensors
GRAPH = 16 * MIB  # an estimate: what the driver keeps of one captured step, beside the tensors that all share
FEW, STRIDE = (1, 2, 4), 8  # sizes of captured steps, nearly as SGLang has them
MOST_CAPTURED = 256  # rows
SPLITS = 64  # partial results of a query over its keys that are merged, at most
FP32 = ELEMENT_BYTES["float32"]
SCORED = 256  # prompt tokens whose log probabilities are computed together


class OnGpu:
    default = "default on a GPU"
    rows = 256
    kept: tuple[str, ...] = ("int8", "fp8_e4m3")
    share = 0.9  # of what is free: peaks are counted term by term
    process = CONTEXT
    around = "CUDA's context, workspaces, compiled kernels, fragments: an estimate"
    at_once = True

    def __init__(self, gpu: Gpu) -> None:
        self._gpu, self.memory, self.device = gpu, gpu.free, f"cuda:{gpu.index}"
        self.where = f"free of the {gpu.memory / GIB:.1f} GiB of {self.device}, a {gpu.name}"

    def chunk(self) -> tuple[int, str]:
        """As SGLang steps up with the memory: long enough to keep the device busy, and its peak beside the cache."""
        tokens = 2048 if self._gpu.memory < 35 * GIB else 4096 if self._gpu.memory < 60 * GIB else 8192
        return tokens, f"default on a GPU of {self._gpu.memory / GIB:.0f} GiB"

    def computed_by(self, dtype: str) -> str:
        return "Triton kernels"

    def dtype(self, settings: Settings, model: ModelConfig, note: Notes) -> str:
        asked, stored = settings.model.dtype, SPELLINGS.get(model.dtype, model.dtype)
        if asked != "auto":
            return str(note("dtype", SPELLINGS.get(asked, asked), note.asked("dtype")))
        if quantized_of(model.raw) is not None and stored == "float32":
            return str(note("dtype", "bfloat16", "what is left of a quantized checkpoint is never wider"))
        return str(note("dtype", stored, "the checkpoint's"))

    def threads(self, settings: Settings, note: Notes) -> int:
        if settings.model.threads is not None:
            return int(note("threads", settings.model.threads, note.asked("threads")))
        return int(note("threads", 1, "the GPU computes"))

    def attention(self, settings: Settings, model: ModelConfig, dtype: str, note: Notes) -> str:
        asked = settings.model.attention_backend
        if asked == "auto":
            return str(note("attention_backend", "triton", "one launch over the pages for rows of every kind"))
        if asked not in BACKENDS:
            raise StartupError(
                f"--attention-backend {asked}: {self.device} computes, with {', '.join(BACKENDS)}",
                "Leave it out, and triton is taken.",
            )
        return str(note("attention_backend", asked, note.asked("attention_backend")))

    def linears(self, settings: Settings, model: ModelConfig, dtype: str, quantization: str, note: Notes) -> str:
        """torch is cuBLAS, triton the invariant kernels."""
        asked, wanted = settings.model.linear_backend, settings.model.deterministic
        if asked == "packed":
            raise StartupError(f"--linear-backend packed: that is a CPU's, and {self.device} computes")
        if asked == "torch" and quantization in OURS:
            raise StartupError(f"--linear-backend torch: torch does not multiply with {quantization} weights")
        if asked == "torch" and wanted:
            raise StartupError("--linear-backend torch: cuBLAS is not deterministic in this sense", "Leave one out.")
        if asked != "auto":
            return str(note("linear_backend", asked, note.asked("linear_backend")))
        if quantization in OURS:
            return str(note("linear_backend", "triton", f"all that {quantization} leaves is computed by our kernels"))
        if wanted:
            return str(note("linear_backend", "triton", "--deterministic: every sum over K has one order"))
        why = "cuBLAS; what the invariant kernels cost is not measured yet, and they become the default below 10 %"
        return str(note("linear_backend", "torch", why))

    def invariance(
        self, settings: Settings, model: ModelConfig, linears: str, attention: str, note: Notes
    ) -> Invariance:
        reason = self._breach(model, attention)
        if reason and settings.model.deterministic:
            raise StartupError(f"--deterministic: {reason}", "Leave out what names a backend, or --deterministic.")
        if reason:
            note("batch_invariance", "no", reason)
            return "no"
        if linears == "triton":
            note("batch_invariance", "yes", "the linears are invariant for all, and so is what is around them")
            return "always"
        ways = (
            "a step that holds a request with deterministic: true is computed with invariant linears; --deterministic"
        )
        note("batch_invariance", "on request", f"{ways} computes every step so")
        return "asked"

    def _breach(self, model: ModelConfig, attention: str) -> str:
        """Why not even invariant linears would make numbers a request's own; empty: they do."""
        if model.generic is not None:
            return "what transformers' code computes between linears and attention is torch's, and depends on the step"
        if attention != "triton":
            return f"attention by {attention} depends on what else is in the step"
        return ""

    # -- captured steps ----------------------------------------------------------------------------------------------

    def captured(self, settings: Settings, model: ModelConfig, rows: int, note: Notes) -> tuple[int, ...]:
        """Numbers of rows for which a decode step is captured as a graph, ascending; steps between two are padded."""
        asked = settings.schedule
        if asked.disable_cuda_graph:
            note("cuda_graph_bs", "none", "--disable-cuda-graph: every step is launched kernel by kernel")
            return ()
        if settings.model.attention_backend in ON_THE_HOST:
            why = f"attention by {settings.model.attention_backend} looks at numbers on the host"
            note("cuda_graph_bs", "none", why)
            return ()
        if model.encoder is not None or model.generic is not None:
            what = "there are no decode steps" if model.encoder is not None else "transformers' code is not captured"
            note("cuda_graph_bs", "none", what)
            return ()
        if asked.cuda_graph_bs is not None:
            sizes = _sizes(asked.cuda_graph_bs, rows)
            reason = note.asked("cuda_graph_bs")
        else:
            most = note.asked_or("cuda_graph_max_bs", asked.cuda_graph_max_bs, lambda: self._most_captured(rows))
            sizes = steps_up_to(min(most, rows))
            reason = f"{len(sizes)} sizes up to {sizes[-1]} rows"
        note("cuda_graph_bs", _shown(sizes), reason)
        return sizes

    def _most_captured(self, rows: int) -> tuple[int, str]:
        if rows <= MOST_CAPTURED:
            return rows, "as many rows as run together"
        return MOST_CAPTURED, "with more the kernels take so long that launching them does not matter"

    # -- memory ------------------------------------------------------------------------------------------------------

    def peaks(self, sized: Sized) -> tuple[Peak, ...]:
        """Tensors that live at the same time in the worst layer of the largest step, and the logits behind it."""
        tokens = sized.chunk + (0 if sized.model.encoder is not None else sized.rows)
        element = ELEMENT_BYTES[sized.dtype]
        layer = max(_attention(sized.model), _feed_forward(sized.model), _recurrent(sized.model))
        each = (2 * sized.model.hidden + layer) * element
        found = [
            Peak("activations", tokens * each, f"a step of {tokens:,} tokens: {each / 1024:,.0f} KiB each"),
            Peak("attention", _partials(sized), "partial results of queries whose keys are split"),
        ]
        if sized.model.encoder is None:
            found += [Peak("logits", *_logits(sized, element)), Peak("slots", *_slots(sized))]
        if sized.captured:
            shared = sized.captured[-1] * (each + sized.model.vocab * (element + FP32))
            how = f"{len(sized.captured)} captured steps: an estimate"
            found.append(Peak("graphs", len(sized.captured) * GRAPH + shared, how))
        return tuple(found)


def _attention(model: ModelConfig) -> int:
    """Elements per token: the fused projection, the queries that are rotated, what attention gives, and its sum. Over
    latents queries and results are as wide as these.
    """
    if model.latent is not None:
        wide = model.latent
        each = 2 * (wide.plain + wide.rotated) + 2 * wide.kv_rank + wide.rotated + wide.value
        return model.heads * each + wide.kv_rank + wide.rotated + model.hidden
    return (3 * model.heads + 2 * model.kv_heads) * model.head_dim + model.hidden


def _feed_forward(model: ModelConfig) -> int:
    """Elements per token: gate and up, their product, and what comes out. Of experts, for each that is chosen, and
    what goes in, sorted, beside.
    """
    dense = 3 * model.mlp + model.hidden
    if model.experts is None:
        return dense
    return max(dense, model.experts.chosen * (3 * model.experts.mlp + 2 * model.hidden) + model.hidden)


def _recurrent(model: ModelConfig) -> int:
    """Elements per token of a layer that keeps a state: what is projected, twice, as outputs are fp32."""
    return 0 if model.recurrent is None else 3 * (model.recurrent.inner + model.recurrent.channels)


def _partials(sized: Sized) -> int:
    """fp32 accumulators and their sums, for rows of one token each: prompts are not split where the device is full."""
    width = sized.model.latent.kv_rank if sized.model.latent is not None else sized.model.head_dim
    return min(sized.rows, SPLITS) * SPLITS * sized.model.heads * (width + 2) * FP32


def _logits(sized: Sized, element: int) -> tuple[int, str]:
    """In the type of the model, in fp32, divided by the temperature, and as log probabilities; prompts that are scored
    beside them in blocks.
    """
    rows, vocab = sized.rows, sized.model.vocab
    size = rows * vocab * (element + 3 * FP32) + SCORED * vocab * (element + 2 * FP32)
    return size, f"{rows:,} rows x {vocab:,} in {sized.dtype} and three times in float32; {SCORED} of prompts"


def _slots(sized: Sized) -> tuple[int, str]:
    """Tokens of all that can run, and the pages they stand in."""
    pages = -(-sized.context // sized.page_size)
    return sized.rows * (8 * sized.context + 4 * pages), f"tokens and pages of {sized.rows:,} requests of any length"


def steps_up_to(most: int) -> tuple[int, ...]:
    """1, 2, 4, 8, then every eighth, and the largest."""
    return tuple(sorted({size for size in (*FEW, *range(STRIDE, most, STRIDE)) if size < most} | {most}))


def _sizes(asked: tuple[int, ...], rows: int) -> tuple[int, ...]:
    """What `--cuda-graph-bs` says, ascending. Sizes that never run are left out."""
    if min(asked) < 1 or len(asked) > rows:
        raise StartupError(f"--cuda-graph-bs: these should be numbers of rows, like 1 2 4 8, at most {rows} of them")
    sizes = tuple(sorted({size for size in asked if size <= rows}))
    if not sizes:
        raise StartupError(f"--cuda-graph-bs: all are above the {rows} rows of --max-running-requests")
    return sizes


def _shown(sizes: tuple[int, ...]) -> str:
    if len(sizes) <= 6:
        return " ".join(map(str, sizes))
    return f"{' '.join(map(str, sizes[:5]))} ... {sizes[-1]}"
