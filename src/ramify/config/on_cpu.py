"""What a CPU decides of a run."""

from __future__ import annotations

from ramify.config.machine import Machine
from ramify.config.memory import Peak, Sized
from ramify.config.model import ModelConfig
from ramify.config.notes import Notes
from ramify.config.quantized import quantized_of
from ramify.config.settings import Settings
from ramify.config.stored import ELEMENT_BYTES
from ramify.config.target import SPELLINGS, Invariance
from ramify.core.errors import StartupError

PROCESS_BYTES = 600 << 20  # torch, Python and the API process, measured
COMPILED = ("float32", "bfloat16")  # types that the compiled kernels compute in
HEAD = 16  # head sizes they take are multiples of it
BACKENDS = ("cpu", "torch_native", "reference")
ON_A_GPU = "That computes on GPUs, with --device cuda: leave it out, and what suits the CPU is taken."


class OnCpu:
    device = "cpu"
    default = "default on a CPU"
    rows = 32
    kept: tuple[str, ...] = ("int8",)
    share = 0.7  # of the memory that is free at start
    process = PROCESS_BYTES
    where, around = "within this process's control group", "torch, Python and the API process"
    at_once = False

    def __init__(self, machine: Machine) -> None:
        self._machine, self.memory = machine, machine.memory

    def chunk(self) -> tuple[int, str]:
        return 512, self.default

    def _compiled(self, dtype: str) -> bool:
        return self._machine.kernels is not None and dtype in COMPILED

    def dtype(self, settings: Settings, model: ModelConfig, note: Notes) -> str:
        asked = settings.model.dtype
        if asked != "auto":
            return note("dtype", SPELLINGS.get(asked, asked), note.asked("dtype"))
        stored = SPELLINGS.get(model.dtype, model.dtype)
        if quantized_of(model.raw) is not None and (self._machine.bf16 or self._machine.kernels is not None):
            return note("dtype", "bfloat16", "what is left of a quantized checkpoint is never wider")
        if stored == "bfloat16" and (self._machine.bf16 or self._machine.kernels is not None):
            how = "multiplies it in hardware" if self._machine.bf16 else "reads it at half the bytes of float32"
            return note("dtype", stored, f"the checkpoint's, and this CPU {how}")
        if stored == "float32":
            return note("dtype", stored, "the checkpoint's")
        return note("dtype", "float32", f"the checkpoint is {stored}, which this CPU computes slower than float32")

    def computed_by(self, dtype: str) -> str:
        return "compiled kernels" if self._compiled(dtype) else "the reference in plain torch, which is slow"

    def threads(self, settings: Settings, note: Notes) -> int:
        if settings.model.threads is not None:
            return note("threads", settings.model.threads, note.asked("threads"))
        if self._machine.cores > 2:
            return note("threads", self._machine.cores - 1, f"{self._machine.cores} cores, one left for the front end")
        return note("threads", self._machine.cores, "all cores that this process may use")

    def attention(self, settings: Settings, model: ModelConfig, dtype: str, note: Notes) -> str:
        asked = settings.model.attention_backend
        if asked != "auto" and asked not in BACKENDS:
            raise StartupError(f"--attention-backend {asked}: the CPU computes, with {', '.join(BACKENDS)}", ON_A_GPU)
        if asked != "auto":
            return str(note("attention_backend", asked, note.asked("attention_backend")))
        if self._compiled(dtype) and all(size % HEAD == 0 for size in model.kept[1:]):
            why = f"compiled kernels ({self._machine.kernels}) that walk the pages"
            return str(note("attention_backend", "cpu", why))
        if model.softcapped or model.sinks:
            why = "torch's fused attention has no caps of scores and no sinks"
            return str(note("attention_backend", "reference", why))
        return str(note("attention_backend", "torch_native", "torch's fused attention over gathered pages"))

    def linears(self, settings: Settings, model: ModelConfig, dtype: str, quantization: str, note: Notes) -> str:
        asked, compiled = settings.model.linear_backend, self._compiled(dtype)
        if asked == "triton":
            raise StartupError("--linear-backend triton: the CPU computes", ON_A_GPU)
        if asked == "packed" and not compiled:
            raise StartupError(
                f"--linear-backend packed: no kernels are compiled here for {dtype}", "See ramify doctor."
            )
        if asked == "torch" and quantization != "none":
            raise StartupError(f"--linear-backend torch: torch does not multiply with {quantization} weights")
        if asked == "torch":
            return str(note("linear_backend", "torch", note.asked("linear_backend")))
        if compiled:
            why = f"compiled kernels ({self._machine.kernels}) over packed weights"
            return str(note("linear_backend", "packed", why))
        if quantization != "none":
            why = f"no compiled kernels for this: {quantization} in plain torch, slowly"
            return str(note("linear_backend", "reference", why))
        return str(note("linear_backend", "torch", "torch, weights as they come"))

    def invariance(
        self, settings: Settings, model: ModelConfig, linears: str, attention: str, note: Notes
    ) -> Invariance:
        """Whether the numbers of a request depend on the request alone; see docs/decisions/003. There is one set of
        kernels: asking for another changes nothing.
        """
        reason = self._breach(model, linears == "packed", attention == "cpu")
        if reason and settings.model.deterministic:
            raise StartupError(f"--deterministic: {reason}", "See ramify doctor, and leave out what names a backend.")
        note(
            "batch_invariance",
            "no" if reason else "yes",
            reason or "every sum has one order, whatever else is in the step",
        )
        return "no" if reason else "always"

    def _breach(self, model: ModelConfig, linears: bool, attention: bool) -> str:
        """Why numbers depend on what else is in the step; empty: they do not."""
        if model.generic is not None:
            between = "what transformers' code computes between linears and attention is torch's"
            return f"{between}, whose rounding depends on what else is in the step"
        which = [name for name, yes in (("linears", not linears), ("attention", not attention)) if yes]
        if not which:
            return ""
        return f"{' and '.join(which)} are torch's here, whose rounding depends on what else is in the step"

    def captured(self, settings: Settings, model: ModelConfig, rows: int, note: Notes) -> tuple[int, ...]:
        """Graphs are a GPU's: steps are recorded here as they come."""
        for name in ("disable_cuda_graph", "cuda_graph_max_bs", "cuda_graph_bs"):
            if name in settings.sources:
                note(name, "none", f"{note.asked(name)}, and there are no captured graphs on a CPU")
        return ()

    def peaks(self, sized: Sized) -> tuple[Peak, ...]:
        """A generous peak of one step: a few copies of the widest layer for every token, and logits for every row."""
        model, rows = sized.model, 0 if sized.model.encoder is not None else sized.rows
        widest = max(2 * model.mlp, (model.heads + 2 * model.kv_heads) * model.head_dim)
        if model.recurrent is not None:
            widest = max(widest, 2 * (model.recurrent.inner + model.recurrent.channels))
        tokens, element = sized.chunk + rows, ELEMENT_BYTES[sized.dtype]
        size = tokens * (widest + 4 * model.hidden) * element * 2 + (rows + 256) * model.vocab * 4 * 3
        return (Peak("activations", size, f"at most, for a step of {sized.chunk} tokens"),)
