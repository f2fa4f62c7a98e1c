"""Records what a model does in a step and makes it again with one call into the compiled library.

A step of one token each is some hundred kernels of microseconds, and as many Python calls around them. What is done
depends on the number of rows alone: so it is written down, with the addresses it was done at, and made again over the
same memory. Kernels become entries of a list in C (`csrc/replay.h`); the few operations of torch between them are kept
as they are and write to where their first results stood.
"""

from __future__ import annotations

import ctypes
import math
import struct
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from ramify.ops.cpu.library import FLOAT, SIGNATURES
from ramify.ops.recording import CannotRecordError, Recording

VALUES = 31  # of a call, see csrc/replay.h
ALIGNMENT = 64
SLAB = 4 << 20  # bytes
EMPTY = (torch.ops.aten.empty.memory_format, torch.ops.aten.empty_like.default)
MADE_OF_NUMBERS = (torch.ops.aten.lift_fresh.default,)  # a tensor of what Python knew at the time
READS_NUMBERS = (torch.Tensor.tolist, torch.Tensor.numpy, torch.Tensor.__array__)
DEPENDS_ON_NUMBERS = (
    torch.Tag.data_dependent_output,
    torch.Tag.dynamic_output_shape,
    torch.Tag.nondeterministic_seeded,
)


class Functions:
    """The functions of the library, by name. While a step is recorded they tell of their calls."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self.library = library
        self.replayable: dict[str, int] = {name: library.ramify_replayable(name.encode()) for name in SIGNATURES}
        self.watch(None)

    def __getattr__(self, name: str) -> Callable[..., None]:
        """What is not in `SIGNATURES` is not there."""
        raise AttributeError(name)

    def watch(self, tell: Callable[[str, tuple[Any, ...]], None] | None) -> None:
        for name in SIGNATURES:
            function = getattr(self.library, name)
            setattr(self, name, function if tell is None else _telling(name, function, tell))


def _telling(name: str, function: Callable[..., None], tell: Callable[[str, tuple[Any, ...]], None]) -> Any:
    def called(*arguments: Any) -> None:
        tell(name, arguments)
        function(*arguments)

    return called


class Arena:
    """Memory for what a step computes in between. A piece is free again when the last tensor over it is gone, so what
    is recorded uses little of it, again and again; recordings share it, because one runs at a time.
    """

    def __init__(self) -> None:
        self._slabs: list[Tensor] = []
        self._free: list[tuple[int, int]] = []  # address and size, by address

    def tensor(self, shape: torch.Size, dtype: torch.dtype) -> Tensor:
        wanted = max(math.prod(shape) * dtype.itemsize, 1)
        size = -(-wanted // ALIGNMENT) * ALIGNMENT
        address = self._take(size)
        piece = (ctypes.c_char * size).from_address(address)
        weakref.finalize(piece, self._give, address, size).atexit = False
        return torch.frombuffer(piece, dtype=torch.uint8)[: math.prod(shape) * dtype.itemsize].view(dtype).view(shape)

    def _take(self, size: int) -> int:
        for at, (address, free) in enumerate(self._free):
            if free >= size:
                left = [(address + size, free - size)] if free > size else []
                self._free[at : at + 1] = left
                return address
        slab = torch.empty(max(size, SLAB) + ALIGNMENT, dtype=torch.uint8)
        self._slabs.append(slab)
        self._give(-(-slab.data_ptr() // ALIGNMENT) * ALIGNMENT, max(size, SLAB))
        return self._take(size)

    def _give(self, address: int, size: int) -> None:
        self._free.append((address, size))
        self._free.sort()
        merged: list[tuple[int, int]] = []
        for piece in self._free:
            if merged and sum(merged[-1]) == piece[0]:
                merged[-1] = (merged[-1][0], merged[-1][1] + piece[1])
            else:
                merged.append(piece)
        self._free[:] = merged


class CpuRecorder:
    """One for a model and its attention, on the thread that computes."""

    def __init__(self, functions: Functions) -> None:
        self._functions = functions
        self._arena = Arena()

    def record(self, compute: Callable[[], Tensor]) -> tuple[Tensor, Recording]:
        notes = _Notes(self._functions, self._arena)
        self._functions.watch(notes.call)
        try:
            with notes, _NoLooking():
                result = compute()
        finally:
            self._functions.watch(None)
        return result, _Recorded(notes.finished(), result)


class _Recorded:
    def __init__(self, parts: list[Callable[[], None]], result: Tensor) -> None:
        self._parts, self._result = parts, result

    def __call__(self) -> Tensor:
        for part in self._parts:
            part()
        return self._result


class _Notes(TorchDispatchMode):
    """Writes down calls of the library and operations of torch, in their order."""

    def __init__(self, functions: Functions, arena: Arena) -> None:
        super().__init__()
        self._functions, self._arena = functions, arena
        self._parts: list[Callable[[], None]] = []
        self._calls: list[bytes] = []

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Torch would import its compiler to keep it away from here, which takes seconds."""
        return False

    def finished(self) -> list[Callable[[], None]]:
        self._end_of_calls()
        return self._parts

    def call(self, name: str, arguments: tuple[Any, ...]) -> None:
        function = self._functions.replayable[name]
        if not function:
            raise CannotRecordError(name)
        kinds = SIGNATURES[name]
        form = "".join("d" if kind is FLOAT else "q" for kind in kinds)
        values = [0 if argument is None else argument for argument in arguments]
        self._calls.append(
            struct.pack(f"q{form}{VALUES - len(kinds)}q", function, *values, *[0] * (VALUES - len(kinds)))
        )

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        looks = func in MADE_OF_NUMBERS or any(tag in func.tags for tag in DEPENDS_ON_NUMBERS)
        if looks and not _drops_nothing(func, args):
            raise CannotRecordError(str(func))
        out = func(*args, **kwargs)
        if func in EMPTY and out.is_contiguous():
            return self._arena.tensor(out.shape, out.dtype)
        if not all(isinstance(one, Tensor) for one in _listed(out)):
            raise CannotRecordError(str(func))
        writes = func._schema.is_mutable
        if writes or not _stands_in(out, (*args, *kwargs.values())):
            self._end_of_calls()
            self._parts.append(_again(func, args, kwargs, None if writes else _listed(out)))
        return out

    def _end_of_calls(self) -> None:
        if self._calls:
            self._parts.append(_replay(self._functions.library, b"".join(self._calls), len(self._calls)))
            self._calls = []


def _drops_nothing(func: Any, args: tuple[Any, ...]) -> bool:
    """Dropout outside of training, which gives what it is given."""
    return func is torch.ops.aten.dropout.default and not args[2]


class _NoLooking(TorchFunctionMode):
    """Notices what `_Notes` cannot: numbers that are read from memory by Python."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in READS_NUMBERS:
            raise CannotRecordError(func.__name__)
        return func(*args, **(kwargs or {}))


def _listed(out: Any) -> list[Any]:
    return list(out) if isinstance(out, (tuple, list)) else [out]


def _stands_in(out: Any, arguments: tuple[Any, ...]) -> bool:
    """Whether a result is a view of an argument. Schemas do not tell: some operations copy only where they must."""
    inputs = {
        one.untyped_storage().data_ptr() for each in arguments for one in _listed(each) if isinstance(one, Tensor)
    }
    return all(one.untyped_storage().data_ptr() in inputs for one in _listed(out))


def _replay(library: ctypes.CDLL, calls: bytes, count: int) -> Callable[[], None]:
    written = ctypes.create_string_buffer(calls, len(calls))
    address = ctypes.addressof(written)

    def again(keep: Any = written) -> None:
        library.ramify_replay(address, count)

    return again


def _again(func: Any, args: Any, kwargs: Any, outs: list[Tensor] | None) -> Callable[[], None]:
    """`outs` is where the results go; None where the operation writes to its arguments."""

    def again() -> None:
        found = func(*args, **kwargs)
        for out, new in zip(outs or (), _listed(found), strict=False):
            out.copy_(new)

    return again
