"""A device that works behind the host, as a GPU does, in pure Python.

Its tensors have a shape at once and numbers later: every operation of torch on them is put into a queue, and done in
its order, whenever chance or somebody who waits for a result wants it. Whoever looks at numbers without waiting, or
mixes tensors of the host with those of the device, is told so by an exception, as torch does on a GPU or should.
Results that were fetched are filled when the queue comes to them, and hold nonsense until then.

To torch these tensors are on its device `meta`, of tensors without numbers, and say that they are not.
"""

from __future__ import annotations

import random
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_flatten, tree_unflatten

from ramify.ops.attention import AttentionShape, Paged, Rule, value_size
from ramify.ops.cuda.modes import TwoModes, either
from ramify.ops.kernels import Kernels
from ramify.ops.lora import LowRank, LowRanks
from ramify.ops.recording import CannotRecordError, Recording
from ramify.ops.reference.attention import ReferenceAttention
from ramify.ops.staging import Numbers, apart, one_array
from ramify.ops.states import Spans

META, CPU = torch.device("meta"), torch.device("cpu")
Work = Callable[[], None]
TAKES = ("aten.copy_", "aten.to.", "aten._to_copy", "aten.index", "aten._index")  # from the host to the device


class LookedError(AssertionError):
    """Somebody looked at what may not be there yet."""


class Queue:
    """What the device has still to do. `lag` is how likely it is not to do the next thing at once."""

    def __init__(self, seed: int, lag: float) -> None:
        self._rnd, self._lag = random.Random(seed), lag
        self._waiting: deque[Work] = deque()
        self._lock = threading.RLock()
        self.asked = self.done = self.longest = 0

    def put(self, work: Work) -> int:
        with self._lock:
            self._waiting.append(work)
            self.asked += 1
            self.longest = max(self.longest, len(self._waiting))
            while self._waiting and self._rnd.random() > self._lag:
                self._next()
            return self.asked

    def until(self, number: int) -> None:
        with self._lock:
            while self.done < number:
                self._next()

    def _next(self) -> None:
        work = self._waiting.popleft()
        self.done += 1
        with torch.no_grad():
            work()


class OnDevice(Tensor):
    """`meta` has the shape, `cell` the numbers, once they are there."""

    meta: Tensor
    cell: list[Tensor]
    is_meta = False  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, meta: Tensor) -> OnDevice:
        made: OnDevice = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, meta.shape, strides=meta.stride(), storage_offset=meta.storage_offset(), dtype=meta.dtype, device=META
        )
        made.meta, made.cell = meta, []
        return made

    @property
    def real(self) -> Tensor:
        return self.cell[0]

    def data_ptr(self) -> int:
        """An address that nobody follows: kernels are given tensors here."""
        return 0

    def __repr__(self, **_: Any) -> str:
        return f"OnDevice({tuple(self.shape)}, {self.dtype})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise LookedError(f"{func} outside of the device's thread")


class Mode(TorchDispatchMode):
    """Operations of a thread are put into a queue, or written down. Where it `waits`, numbers of the host may be given
    to them, as torch copies such when the device has caught up: before anything is served.
    """

    def __init__(self, put: Callable[[Work], Any], waits: bool = False) -> None:
        super().__init__()
        self._put, self._waits = put, waits

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        flat, tree = tree_flatten((args, kwargs))
        if not any(isinstance(each, OnDevice) for each in flat) and _kind(kwargs.get("device")) != META.type:
            return func(*args, **kwargs)
        name = str(func)
        if name.startswith(("aten._local_scalar_dense", "aten.item", "aten.equal", "aten.nonzero", "aten.is_nonzero")):
            raise LookedError(f"{name} looks at numbers of the device")
        if _kind(kwargs.get("device", META)) != META.type:
            raise LookedError(f"{name} brings numbers of the device to the host")
        takes = self._waits and name.startswith(TAKES)
        metas, reals = [], []
        for each in flat:
            if not isinstance(each, Tensor):
                metas.append(META if isinstance(each, torch.device) else each)
                reals.append(_always(CPU if isinstance(each, torch.device) else each))
            elif isinstance(each, OnDevice):
                metas.append(each.meta)
                reals.append(lambda tensor=each: tensor.real)
            elif each.device == META:
                raise LookedError(f"{name} was given a number that this device has never seen")
            elif each.dim() == 0 or takes:  # the host waits until they are over there
                metas.append(each.to(META))
                reals.append(_always(each.clone()))
            else:
                raise LookedError(f"{name} mixes tensors of the host with those of the device")
        m_args, m_kwargs = tree_unflatten(metas, tree)
        found, found_tree = tree_flatten(func(*m_args, **m_kwargs))
        same = {id(each.meta): each for each in flat if isinstance(each, OnDevice)}
        # What is changed in place stays what it is.
        made = [same[id(x)] if id(x) in same else OnDevice(x) if isinstance(x, Tensor) else x for x in found]

        def work() -> None:
            r_args, r_kwargs = tree_unflatten([real() for real in reals], tree)
            results, _ = tree_flatten(func(*r_args, **r_kwargs))
            _fill(made, results)

        self._put(work)
        return tree_unflatten(made, found_tree)


def _always(value: Any) -> Callable[[], Any]:
    return lambda: value


def _kind(device: Any) -> str:
    return "" if device is None else torch.device(device).type


def _fill(made: Sequence[Any], results: Sequence[Any]) -> None:
    for each, result in zip(made, results, strict=True):
        if isinstance(each, OnDevice):
            each.cell[:] = [result]


def real_of(value: Any) -> Any:
    """Numbers, as a kernel sees them that runs on the device."""
    if isinstance(value, OnDevice):
        return value.real
    if isinstance(value, (list, tuple)):
        return type(value)(real_of(each) for each in value)
    if isinstance(value, Spans):
        return Spans(*(real_of(each) for each in value.tensors))
    return _RealRanks(value) if isinstance(value, LowRanks) else value


class _RealRanks:
    """As the reference looks at adapters."""

    def __init__(self, table: LowRanks) -> None:
        self._table = table

    def __getitem__(self, slot: int) -> list[LowRank]:
        return [replace(part, down_RD=real_of(part.down_RD), up_ER=real_of(part.up_ER)) for part in self._table[slot]]


class Device:
    """A queue, and ways to ask for things from threads that may."""

    def __init__(self, seed: int = 0, lag: float = 0.9) -> None:
        self.queue = Queue(seed, lag)
        self._local = threading.local()

    def put(self, work: Work) -> int:
        """Into the queue, or into what this thread captures."""
        noted: list[Work] | None = getattr(self._local, "noted", None)
        if noted is None:
            return self.queue.put(work)
        noted.append(work)
        return -1

    def here(self, waits: bool = False) -> AbstractContextManager[Any]:
        """This thread asks the device for whatever it does with its tensors."""
        return Mode(self.put, waits)

    def capture(self, compute: Callable[[], Tensor]) -> tuple[list[Work], Tensor]:
        self._local.noted = noted = []
        try:
            with self.here(), torch.no_grad():
                return noted, compute()
        finally:
            self._local.noted = None

    def kernel(self, function: Callable[..., Any], shapes: Callable[..., Sequence[Tensor]]) -> Callable[..., Any]:
        """A function that may look at numbers, because it runs on the device. `shapes` gives what it returns, without
        numbers.
        """

        def run(*args: Any) -> Any:
            tensors = [each for arg in args for each in (arg.tensors if isinstance(arg, Spans) else [arg])]
            there = [isinstance(each, OnDevice) for each in tensors if isinstance(each, Tensor)]
            if not any(there):
                return function(*args)
            if not all(there):
                raise LookedError(f"{function.__name__} mixes tensors of the host with those of the device")
            with _disable_current_modes():
                made = [OnDevice(meta) for meta in shapes(*args)]

            def work() -> None:
                found = function(*real_of(args))
                _fill(made, [found] if isinstance(found, Tensor) else found or [])

            self.put(work)
            return (made[0] if len(made) == 1 else tuple(made)) if made else None

        return run


class Arrived:
    def __init__(self, device: Device, there: list[Tensor], number: int) -> None:
        self._device, self._there, self._number = device, there, number

    def wait(self) -> list[Tensor]:
        self._device.queue.until(self._number)
        return self._there


class LaggingStaging:
    is_host = False

    def __init__(self, device: Device) -> None:
        self._device = device

    def send(self, *numbers: Numbers) -> list[Tensor]:
        pinned = torch.from_numpy(one_array(numbers))
        with _disable_current_modes():
            sent = OnDevice(pinned.to(META))
        self._device.put(lambda: _fill([sent], [pinned.clone()]))
        return apart(sent, numbers)

    def fetch(self, tensors: Sequence[Tensor]) -> Arrived:
        there = [torch.full(each.shape, 77, dtype=torch.float64).to(each.dtype) for each in tensors]
        number = 0
        for target, source in zip(there, tensors, strict=True):
            number = self._device.put(partial(_copy, target, source))
        return Arrived(self._device, there, number)


def _copy(target: Tensor, source: Tensor) -> None:
    assert isinstance(source, OnDevice)
    target.copy_(source.real)


class LaggingAttention:
    """The reference, on the device: lengths are what they are there."""

    def __init__(self, device: Device) -> None:
        self._device = device

    def reasons_against(self, shape: AttentionShape) -> list[str]:
        return []

    def prepare(self, paged: Paged) -> Paged:
        assert isinstance(paged.lengths_N, OnDevice)
        return paged

    def lasting(self, meta: Paged, pages: int) -> Paged:
        assert meta.lengths_N is not None
        tables = meta.tables.new_zeros(len(meta.counts), pages)
        tables[:, : meta.tables.shape[1]] = meta.tables
        return replace(meta, lengths=[-1] * len(meta.counts), tables=tables, lengths_N=meta.lengths_N.clone())

    def refresh(self, own: Paged, meta: Paged) -> None:
        assert own.lengths_N is not None
        assert meta.lengths_N is not None
        own.tables[:, : meta.tables.shape[1]] = meta.tables
        own.lengths_N.copy_(meta.lengths_N)

    def forward(self, q_THC: Tensor, k_pool_PKSC: Tensor, v_pool_PKSC: Tensor, meta: Paged, rule: Rule) -> Tensor:
        def attend(q: Tensor, k: Tensor, v: Tensor, tables: Tensor, lengths_N: Tensor, sinks: Tensor | None) -> Tensor:
            exact = lengths_N.tolist()
            assert all(length <= most for length, most in zip(exact, meta.lengths, strict=True) if most >= 0)
            paged = replace(meta, tables=tables, lengths=exact)
            return ReferenceAttention().forward(q, k, v, paged, replace(rule, sinks_H=sinks))

        def shapes(q: Tensor, *_: Any) -> list[Tensor]:
            shape = (*q.shape[:2], value_size(q_THC, v_pool_PKSC))
            return [torch.empty(shape, dtype=q.dtype, device=META)]

        run = self._device.kernel(attend, shapes)
        attended: Tensor = run(q_THC, k_pool_PKSC, v_pool_PKSC, meta.tables, meta.lengths_N, rule.sinks_H)
        return attended


class LaggingCapturer:
    """Captures on a thread of its own, which `held` can keep waiting."""

    def __init__(self, device: Device, sizes: Sequence[int]) -> None:
        self.sizes, self._device = sizes, device
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="capture")
        self.held = threading.Event()
        self.held.set()
        self.made = self.replayed = self.failing = 0

    def begin(self, compute: Callable[[], Tensor]) -> Future[Recording]:
        future = self._threads.submit(self._capture, compute)
        if self.held.is_set():
            wait([future])  # so that what is replayed does not hang on how busy this machine is
        return future

    def _capture(self, compute: Callable[[], Tensor]) -> Recording:
        assert self.held.wait(60)
        if self.failing:
            self.failing -= 1
            raise RuntimeError("an operation that no stream may capture")
        try:
            works, result = self._device.capture(compute)
        except LookedError as e:
            raise CannotRecordError(str(e)) from e
        self.made += 1

        def again() -> Tensor:
            self.replayed += 1
            for work in works:
                self._device.put(work)
            return result

        return again

    def close(self) -> None:
        self._threads.shutdown(wait=True)

    def threads(self) -> list[threading.Thread]:
        return list(self._threads._threads)


class LaggingPlatform:
    """`sizes` are numbers of rows of steps that are captured, if any."""

    def __init__(self, sizes: Sequence[int] = (), seed: int = 0, lag: float = 0.9) -> None:
        self.lagging = Device(seed, lag)
        self.device = META
        self.staging = LaggingStaging(self.lagging)
        self.recorder = None
        self.capturer = LaggingCapturer(self.lagging, sizes) if sizes else None
        self.modes = modes = TwoModes()
        plain, kernel = Kernels(), self.lagging.kernel
        self.invariant_linears = 0  # that were asked for

        def invariant(x_TD: Tensor, weight_ED: Tensor, bias_E: Tensor | None) -> Tensor:
            """Twice what the others say: whoever takes the wrong ones is seen."""
            self.invariant_linears += 1
            return 2 * plain.linear(x_TD, weight_ED, bias_E)

        def tokens(logits: Tensor, *_: Tensor) -> list[Tensor]:
            rows = len(logits)
            return [torch.empty(rows, dtype=dtype, device=META) for dtype in (torch.int64, torch.bool)]

        def outputs(x: Tensor, weight: Tensor, *_: Any) -> list[Tensor]:
            return [torch.empty(len(x), weight.shape[1], dtype=x.dtype, device=META)]

        def scanned(size: int) -> Callable[..., list[Tensor]]:
            """`size` is which dimension of the pool is that of values."""

            def shapes(x: Tensor, *rest: Any) -> list[Tensor]:
                (pool,) = (each for each in rest if isinstance(each, Tensor) and each.dim() == 4)
                return [torch.empty(len(x), pool.shape[1] * pool.shape[size], device=META)]

            return shapes

        self.kernels = replace(
            plain,
            linear=either(modes, invariant, plain.linear),
            sample=kernel(plain.sample, tokens),
            penalise=kernel(plain.penalise, lambda *_: []),
            grouped_linear=kernel(plain.grouped_linear, outputs),
            conv=kernel(plain.conv, lambda x, *_: [torch.empty(x.shape, dtype=x.dtype, device=META)]),
            ssd=kernel(plain.ssd, scanned(2)),
            delta=kernel(plain.delta, scanned(3)),
            lora=kernel(plain.lora, lambda *_: []),
        )

    def attention(self, name: str, shape: AttentionShape) -> LaggingAttention:
        return LaggingAttention(self.lagging)

    def prepare_thread(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            self.lagging.here().__enter__()  # for as long as the thread lives

    def free_bytes(self) -> int:
        return 1 << 30
