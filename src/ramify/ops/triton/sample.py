"""Drawing tokens without sorting the vocabulary, and what is done to logits before.

A row is cut in chunks of CHUNK tokens, each a program, so that one row fills the device too. What is summed up is
summed in float64, chunk by chunk in their order.

Top-k, top-p, min-p and the draw all ask one thing of the tokens sorted by falling probability: which is the last one
with fewer than so many, and no more than so much probability, before it? That is found by the bits of its value, four
at a time from the highest (a radix selection), with nothing sorted: in a pass every chunk counts the tokens in each of
16 bins and adds up their weights, and the next pass knows from these which bin to look into.

    survey   peak, weights and best token of each chunk
    begin    of each row: what is looked for
    narrow   eight passes to the last token that is kept: how much is kept
    turn     a share of that, by the random number, is what is looked for now
    narrow   eight passes to the token where it is reached
    pick     its number; among equal values the first come first

Rows from which everything is kept are drawn in the order of the vocabulary, by `pick` alone. So tokens are those of
`ops.reference.sample`, but for random numbers that fall on an edge between two of them.
"""

from __future__ import annotations

import torch
import triton.language as tl
from torch import Tensor

import triton
from ramify.ops.triton.rows import LOG2E

CHUNK = 8192
WIDE = 256  # tokens of a chunk that are looked at together
PASSES = 8  # of four bits

GREEDY, OPEN, FILTERED = (tl.constexpr(mode) for mode in range(3))
# Columns of a row's whole numbers, and of its float64 ones.
MODE, BEST, BITS, BEFORE, LIMIT = (tl.constexpr(column) for column in range(5))
PEAK, TOTAL, MASS_BEFORE, MASS_LIMIT = (tl.constexpr(column) for column in range(4))


@triton.jit
def ordered(x):
    """The bits of float32, so that they rise as the numbers do."""
    bits = x.to(tl.uint32, bitcast=True)
    return tl.where(bits >> 31 != 0, ~bits, bits | 0x80000000)


@triton.jit
def number_of(bits):
    """The float32 of `ordered` bits."""
    raw = tl.where(bits >> 31 != 0, bits & 0x7FFFFFFF, ~bits)
    return raw.to(tl.uint32).to(tl.float32, bitcast=True)


@triton.jit
def weight_of(x, peak):
    return tl.exp2((x - peak) * LOG2E)


@triton.jit
def survey(logits_ptr, temperature_ptr, peaks_ptr, sums_ptr, best_ptr, vocab, chunks, CHUNK: tl.constexpr):
    """A NaN in a chunk makes its sum NaN."""
    row, chunk = tl.program_id(0).to(tl.int64), tl.program_id(1)
    at = chunk * CHUNK + tl.arange(0, CHUNK)
    raw = tl.load(logits_ptr + row * vocab + at, mask=at < vocab, other=float("-inf"))
    x = tl.div_rn(raw, tl.zeros([CHUNK], tl.float32) + tl.load(temperature_ptr + row))
    peak = tl.max(x, 0)
    reference = tl.where(peak == float("-inf"), 0.0, peak)
    tl.store(peaks_ptr + row * chunks + chunk, peak)
    tl.store(sums_ptr + row * chunks + chunk, tl.sum(weight_of(x, reference).to(tl.float64), 0))
    highest = tl.max(raw, 0)
    tl.store(best_ptr + row * chunks + chunk, tl.min(tl.where(raw == highest, at, vocab), 0))


@triton.jit
def begin(
    logits_ptr,
    peaks_ptr,
    sums_ptr,
    best_ptr,
    top_k_ptr,
    top_p_ptr,
    min_p_ptr,
    greedy_ptr,
    broken_ptr,
    whole_ptr,
    real_ptr,
    vocab,
    chunks,
    BLOCK: tl.constexpr,
):
    row, c = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
    peaks = tl.load(peaks_ptr + row * chunks + c, mask=c < chunks, other=float("-inf"))
    sums = tl.load(sums_ptr + row * chunks + c, mask=c < chunks, other=0.0)
    best = tl.load(best_ptr + row * chunks + c, mask=c < chunks, other=0)
    peak = tl.max(peaks, 0)
    broken = (tl.sum(sums, 0) != tl.sum(sums, 0)) | (peak == float("-inf")) | (peak == float("inf"))
    values = tl.load(logits_ptr + row * vocab + best, mask=(c < chunks) & (best < vocab), other=float("-inf"))
    winner = tl.min(tl.where(values == tl.max(values, 0), best, vocab - 1), 0)
    total = tl.sum(sums * tl.where(peaks == float("-inf"), 0.0, weight_of(peaks, peak)).to(tl.float64), 0)
    top_k, top_p, min_p = tl.load(top_k_ptr + row), tl.load(top_p_ptr + row), tl.load(min_p_ptr + row)
    filtered = (top_k < vocab) | (top_p < 1.0) | (min_p > 0.0)
    greedy = tl.load(greedy_ptr + row).to(tl.int1) | broken
    tl.store(broken_ptr + row, broken)
    tl.store(whole_ptr + 5 * row + MODE, tl.where(greedy, GREEDY, tl.where(filtered, FILTERED, OPEN)).to(tl.int64))
    tl.store(whole_ptr + 5 * row + BEST, winner.to(tl.int64))
    tl.store(whole_ptr + 5 * row + BITS, 0)
    tl.store(whole_ptr + 5 * row + BEFORE, 0)
    tl.store(whole_ptr + 5 * row + LIMIT, tl.minimum(tl.maximum(top_k, 1), vocab).to(tl.int64))
    tl.store(real_ptr + 4 * row + PEAK, peak.to(tl.float64))
    tl.store(real_ptr + 4 * row + TOTAL, total)
    tl.store(real_ptr + 4 * row + MASS_BEFORE, 0.0)
    tl.store(real_ptr + 4 * row + MASS_LIMIT, total * top_p.to(tl.float64))


@triton.jit
def narrow(
    logits_ptr,
    temperature_ptr,
    min_p_ptr,
    whole_ptr,
    real_ptr,
    counts_ptr,
    masses_ptr,
    vocab,
    chunks,
    shift,
    CHUNK: tl.constexpr,
    WIDE: tl.constexpr,
):
    """Counts and weights of 16 bins of one chunk: those of the tokens whose bits above `shift + 4` are the row's."""
    row, chunk = tl.program_id(0).to(tl.int64), tl.program_id(1)
    if tl.load(whole_ptr + 5 * row + MODE) != FILTERED:
        return
    bits = tl.load(whole_ptr + 5 * row + BITS)
    peak = tl.load(real_ptr + 4 * row + PEAK).to(tl.float32)
    temperature, least = tl.load(temperature_ptr + row), tl.load(min_p_ptr + row)
    bins = tl.arange(0, 16)
    counts = tl.zeros([WIDE, 16], tl.int32)
    masses = tl.zeros([WIDE, 16], tl.float64)
    for first in range(chunk * CHUNK, tl.minimum((chunk + 1) * CHUNK, vocab), WIDE):
        at = first + tl.arange(0, WIDE)
        x = tl.load(logits_ptr + row * vocab + at, mask=at < vocab, other=float("-inf"))
        x = tl.div_rn(x, tl.zeros([WIDE], tl.float32) + temperature)
        weight = weight_of(x, peak)
        key = ordered(x).to(tl.int64)
        mine = (at < vocab) & (weight >= least) & (weight > 0.0) & (key >> (shift + 4) == bits >> (shift + 4))
        hit = mine[:, None] & ((key >> shift & 15)[:, None] == bins[None, :])
        counts += hit.to(tl.int32)
        masses += tl.where(hit, weight[:, None], 0.0).to(tl.float64)
    place = (row * chunks + chunk) * 16 + bins
    tl.store(counts_ptr + place, tl.sum(counts, 0))
    tl.store(masses_ptr + place, tl.sum(masses, 0))


@triton.jit
def look(counts_ptr, masses_ptr, whole_ptr, real_ptr, chunks, shift, BLOCK: tl.constexpr):
    """One row: from the highest bin down to the last one that begins within both limits."""
    row = tl.program_id(0).to(tl.int64)
    if tl.load(whole_ptr + 5 * row + MODE) != FILTERED:
        return
    c, bins = tl.arange(0, BLOCK), tl.arange(0, 16)
    place = (row * chunks + c)[:, None] * 16 + 15 - bins[None, :]  # from the highest
    counts = tl.sum(tl.load(counts_ptr + place, mask=(c < chunks)[:, None], other=0), 0).to(tl.int64)
    masses = tl.sum(tl.load(masses_ptr + place, mask=(c < chunks)[:, None], other=0.0), 0)
    before = tl.load(whole_ptr + 5 * row + BEFORE) + tl.cumsum(counts, 0) - counts
    mass_before = tl.load(real_ptr + 4 * row + MASS_BEFORE) + tl.cumsum(masses, 0) - masses
    limit, mass_limit = tl.load(whole_ptr + 5 * row + LIMIT), tl.load(real_ptr + 4 * row + MASS_LIMIT)
    within = (counts > 0) & (((before < limit) & (mass_before <= mass_limit)) | (before == 0))
    chosen = tl.max(tl.where(within, bins, 0), 0)
    bits = tl.load(whole_ptr + 5 * row + BITS) | ((15 - chosen).to(tl.int64) << shift)
    tl.store(whole_ptr + 5 * row + BITS, bits)
    tl.store(whole_ptr + 5 * row + BEFORE, tl.sum(tl.where(bins == chosen, before, 0), 0))
    tl.store(real_ptr + 4 * row + MASS_BEFORE, tl.sum(tl.where(bins == chosen, mass_before, 0.0), 0))


@triton.jit
def equals(counts_ptr, bits, row, chunks, BLOCK: tl.constexpr):
    """How many tokens of each chunk have the value that eight passes found."""
    c = tl.arange(0, BLOCK)
    return tl.load(counts_ptr + (row * chunks + c) * 16 + (bits & 15), mask=c < chunks, other=0)


@triton.jit
def turn(counts_ptr, whole_ptr, real_ptr, random_ptr, chunks, BLOCK: tl.constexpr):
    """From what is kept to what is drawn of it."""
    row = tl.program_id(0).to(tl.int64)
    if tl.load(whole_ptr + 5 * row + MODE) != FILTERED:
        return
    bits, before = tl.load(whole_ptr + 5 * row + BITS), tl.load(whole_ptr + 5 * row + BEFORE)
    mass_before = tl.load(real_ptr + 4 * row + MASS_BEFORE)
    weight = weight_of(number_of(bits), tl.load(real_ptr + 4 * row + PEAK).to(tl.float32)).to(tl.float64)
    room = tl.maximum(tl.load(real_ptr + 4 * row + MASS_LIMIT) - mass_before, 0.0) / weight
    many = tl.sum(equals(counts_ptr, bits, row, chunks, BLOCK), 0).to(tl.int64)
    many = tl.minimum(many, tl.load(whole_ptr + 5 * row + LIMIT) - before)
    many = tl.minimum(many, tl.minimum(room, 1e9).to(tl.int64) + 1)
    kept = mass_before + many.to(tl.float64) * weight
    tl.store(whole_ptr + 5 * row + LIMIT, before + many)
    tl.store(whole_ptr + 5 * row + BITS, 0)
    tl.store(whole_ptr + 5 * row + BEFORE, 0)
    tl.store(real_ptr + 4 * row + MASS_BEFORE, 0.0)
    tl.store(real_ptr + 4 * row + MASS_LIMIT, kept * tl.load(random_ptr + row))


@triton.jit
def pick(
    logits_ptr,
    temperature_ptr,
    peaks_ptr,
    sums_ptr,
    counts_ptr,
    whole_ptr,
    real_ptr,
    random_ptr,
    tokens_ptr,
    vocab,
    chunks,
    CHUNK: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The chunk in which the token stands, and its place there: by weights where the row is open, else by number among
    its equals.
    """
    row = tl.program_id(0).to(tl.int64)
    mode = tl.load(whole_ptr + 5 * row + MODE)
    if mode == GREEDY:
        tl.store(tokens_ptr + row, tl.load(whole_ptr + 5 * row + BEST))
        return
    c = tl.arange(0, BLOCK)
    bits = tl.load(whole_ptr + 5 * row + BITS)
    peak = tl.load(real_ptr + 4 * row + PEAK).to(tl.float32)
    if mode == OPEN:
        peaks = tl.load(peaks_ptr + row * chunks + c, mask=c < chunks, other=float("-inf"))
        share = tl.load(sums_ptr + row * chunks + c, mask=c < chunks, other=0.0)
        share *= tl.where(peaks == float("-inf"), 0.0, weight_of(peaks, peak)).to(tl.float64)
        target = tl.load(random_ptr + row) * tl.load(real_ptr + 4 * row + TOTAL)
    else:
        share = equals(counts_ptr, bits, row, chunks, BLOCK).to(tl.float64)
        weight = weight_of(number_of(bits), peak).to(tl.float64)
        room = tl.maximum(tl.load(real_ptr + 4 * row + MASS_LIMIT) - tl.load(real_ptr + 4 * row + MASS_BEFORE), 0.0)
        last = tl.load(whole_ptr + 5 * row + LIMIT) - tl.load(whole_ptr + 5 * row + BEFORE) - 1
        target = tl.minimum(tl.floor(room / weight), last.to(tl.float64))
    before = tl.cumsum(share, 0) - share
    chunk = tl.max(tl.where((share > 0.0) & (before <= target), c, 0), 0)
    target -= tl.sum(tl.where(c == chunk, before, 0.0), 0)
    at = chunk * CHUNK + tl.arange(0, CHUNK)
    x = tl.load(logits_ptr + row * vocab + at, mask=at < vocab, other=float("-inf"))
    x = tl.div_rn(x, tl.zeros([CHUNK], tl.float32) + tl.load(temperature_ptr + row))
    if mode == OPEN:
        mine = weight_of(x, peak).to(tl.float64)
    else:
        mine = ((at < vocab) & (ordered(x).to(tl.int64) == bits)).to(tl.float64)
    found = (mine > 0.0) & (tl.cumsum(mine, 0) - mine <= target)
    tl.store(tokens_ptr + row, tl.max(tl.where(found, at, 0), 0).to(tl.int64))


@triton.jit
def uniform(seeds_ptr, choices_ptr, positions_ptr, random_ptr, purpose, count, BLOCK: tl.constexpr):
    """See `ops.reference.random`."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    seed = tl.load(seeds_ptr + at, mask=at < count, other=0)
    position = tl.load(positions_ptr + at, mask=at < count, other=0).to(tl.uint32)
    choice = tl.load(choices_ptr + at, mask=at < count, other=0).to(tl.uint32)
    zero = tl.zeros([BLOCK], tl.uint32)
    key, key_high = (seed & 0xFFFFFFFF).to(tl.uint32), (seed >> 32 & 0xFFFFFFFF).to(tl.uint32)
    a, b, _, _ = tl.philox_impl(position, choice, (zero + purpose).to(tl.uint32), zero, key, key_high)
    bits = ((a >> 6).to(tl.int64) << 26) | (b >> 6).to(tl.int64)
    tl.store(random_ptr + at, (bits.to(tl.float64) + 0.5) * 2.220446049250313e-16, mask=at < count)


@triton.jit
def log_probabilities(logits_ptr, tokens_ptr, logp_ptr, vocab, CHUNK: tl.constexpr):
    """Of one token of a row; chunk by chunk, in their order."""
    row = tl.program_id(0).to(tl.int64)
    peak = tl.full([1], float("-inf"), tl.float32)
    total = tl.zeros([1], tl.float64)
    for first in range(0, vocab, CHUNK):
        at = first + tl.arange(0, CHUNK)
        x = tl.load(logits_ptr + row * vocab + at, mask=at < vocab, other=float("-inf")).to(tl.float32)
        highest = tl.maximum(peak, tl.max(x, 0))
        reference = tl.where(highest == float("-inf"), 0.0, highest)
        total = total * weight_of(peak, reference).to(tl.float64)
        total += tl.sum(weight_of(x, reference).to(tl.float64), 0)
        peak = highest
    token = tl.load(tokens_ptr + row + tl.arange(0, 1))
    chosen = tl.load(logits_ptr + row * vocab + token).to(tl.float64)
    tl.store(logp_ptr + row + tl.arange(0, 1), (chosen - peak.to(tl.float64) - tl.log(total)).to(tl.float32))


@triton.jit
def forbid(logits_ptr, rows_ptr, words_ptr, vocab, words, CHUNK: tl.constexpr):
    """Only words with a bit that is not set make it write."""
    index, at = tl.program_id(0).to(tl.int64), tl.program_id(1) * CHUNK + tl.arange(0, CHUNK)
    row = tl.load(rows_ptr + index).to(tl.int64)
    word = tl.load(words_ptr + index * words + at // 32, mask=at < vocab, other=-1)
    out = word >> (at % 32) & 1 == 0
    tl.store(logits_ptr + row * vocab + at, tl.full([CHUNK], float("-inf"), tl.float32), mask=(at < vocab) & out)


@triton.jit
def penalise(
    logits_ptr,
    rows_ptr,
    tokens_ptr,
    slots_ptr,
    first_ptr,
    end_ptr,
    frequency_ptr,
    presence_ptr,
    repetition_ptr,
    vocab,
    context,
    BLOCK: tl.constexpr,
):
    """A block of the tokens that a request has generated, against all of them: the first of its kind writes."""
    index = tl.program_id(0)
    first, end = tl.load(first_ptr + index), tl.load(end_ptr + index)
    outputs_ptr = tokens_ptr + tl.load(slots_ptr + index).to(tl.int64) * context
    at = first + tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    token = tl.load(outputs_ptr + at, mask=at < end, other=-1)
    count = tl.zeros([BLOCK], tl.int32)
    is_first = at < end
    for other_first in range(first, end, BLOCK):
        other_at = other_first + tl.arange(0, BLOCK)
        other = tl.load(outputs_ptr + other_at, mask=other_at < end, other=-2)
        same = token[:, None] == other[None, :]
        count += tl.sum(same.to(tl.int32), 1)
        is_first &= tl.sum((same & (other_at[None, :] < at[:, None])).to(tl.int32), 1) == 0
    place = logits_ptr + tl.load(rows_ptr + index).to(tl.int64) * vocab + token
    x = tl.load(place, mask=is_first, other=0.0)
    x -= tl.load(frequency_ptr + index) * count.to(tl.float32) + tl.load(presence_ptr + index)
    repetition = tl.load(repetition_ptr + index)
    tl.store(place, tl.where(x > 0.0, x / repetition, x * repetition), mask=is_first)


class Sampling:
    """Behind the signatures of `ops.kernels`. `chunk` tokens of a row are a program's."""

    def __init__(self, chunk: int = CHUNK) -> None:
        self._chunk = chunk

    def sample(
        self,
        logits_RV: Tensor,
        temperature_R: Tensor,
        top_k_R: Tensor,
        top_p_R: Tensor,
        min_p_R: Tensor,
        random_R: Tensor,
        greedy_R: Tensor,
    ) -> tuple[Tensor, Tensor]:
        logits_RV = logits_RV.contiguous()
        rows, vocab = logits_RV.shape
        chunks = triton.cdiv(vocab, self._chunk)
        block = triton.next_power_of_2(chunks)
        new = logits_RV.new_empty
        peaks, sums, whole, real, broken = self._begun(logits_RV, temperature_R, top_k_R, top_p_R, min_p_R, greedy_R)
        counts, masses = new(rows, chunks, 16, dtype=torch.int32), new(rows, chunks, 16, dtype=torch.float64)
        tokens = new(rows, dtype=torch.int64)
        for search in range(2):
            for shift in range(4 * PASSES - 4, -1, -4):
                narrow[(rows, chunks)](
                    logits_RV,
                    temperature_R,
                    min_p_R,
                    whole,
                    real,
                    counts,
                    masses,
                    vocab,
                    chunks,
                    shift,
                    CHUNK=self._chunk,
                    WIDE=WIDE,
                    num_warps=8,
                )
                look[(rows,)](counts, masses, whole, real, chunks, shift, BLOCK=block, num_warps=1)
            if search == 0:
                turn[(rows,)](counts, whole, real, random_R, chunks, BLOCK=block, num_warps=1)
        pick[(rows,)](
            logits_RV,
            temperature_R,
            peaks,
            sums,
            counts,
            whole,
            real,
            random_R,
            tokens,
            vocab,
            chunks,
            CHUNK=self._chunk,
            BLOCK=block,
            num_warps=8,
        )
        return tokens, broken

    def best(self, logits_RV: Tensor) -> tuple[Tensor, Tensor]:
        """What is known before anything is selected."""
        ones = logits_RV.new_ones(len(logits_RV))
        found = self._begun(logits_RV.contiguous(), ones, ones.long(), ones, ones, ones.bool())
        return found[2][:, BEST.value].contiguous(), found[4]

    def _begun(
        self,
        logits_RV: Tensor,
        temperature_R: Tensor,
        top_k_R: Tensor,
        top_p_R: Tensor,
        min_p_R: Tensor,
        greedy_R: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Peaks and sums of chunks, what is known of each row in whole and in real numbers, and which are broken."""
        rows, vocab = logits_RV.shape
        chunks, new = triton.cdiv(vocab, self._chunk), logits_RV.new_empty
        peaks, sums = new(rows, chunks), new(rows, chunks, dtype=torch.float64)
        best = new(rows, chunks, dtype=torch.int32)
        whole, real = new(rows, 5, dtype=torch.int64), new(rows, 4, dtype=torch.float64)
        broken = new(rows, dtype=torch.bool)
        survey[(rows, chunks)](
            logits_RV, temperature_R, peaks, sums, best, vocab, chunks, CHUNK=self._chunk, num_warps=8
        )
        limits = (top_k_R, top_p_R, min_p_R, greedy_R)
        block = triton.next_power_of_2(chunks)
        begin[(rows,)](
            logits_RV, peaks, sums, best, *limits, broken, whole, real, vocab, chunks, BLOCK=block, num_warps=1
        )
        return peaks, sums, whole, real, broken

    def uniform(self, seeds_R: Tensor, choices_R: Tensor, positions_R: Tensor, purpose: int) -> Tensor:
        seeds_R, choices_R, positions_R = (each_R.contiguous() for each_R in (seeds_R, choices_R, positions_R))
        random_R = torch.empty(len(positions_R), dtype=torch.float64, device=positions_R.device)
        if len(random_R):
            grid = (triton.cdiv(len(random_R), 128),)
            uniform[grid](seeds_R, choices_R, positions_R, random_R, purpose, len(random_R), BLOCK=128)
        return random_R

    def log_probabilities(self, logits_NV: Tensor, tokens_N: Tensor) -> Tensor:
        logits_NV, tokens_N = logits_NV.contiguous(), tokens_N.contiguous()
        logp_N = logits_NV.new_empty(len(logits_NV), dtype=torch.float32)
        if len(logp_N):
            log_probabilities[(len(logp_N),)](logits_NV, tokens_N, logp_N, logits_NV.shape[1], CHUNK=4096, num_warps=8)
        return logp_N

    def forbid(self, logits_RV: Tensor, rows_M: Tensor, words_MW: Tensor) -> None:
        rows, words = words_MW.shape
        vocab = logits_RV.shape[1]
        if rows:
            forbid[(rows, triton.cdiv(vocab, 1024))](logits_RV, rows_M, words_MW.contiguous(), vocab, words, CHUNK=1024)

    def penalise(
        self,
        logits_RV: Tensor,
        rows_M: Tensor,
        tokens_SC: Tensor,
        slots_M: Tensor,
        first_M: Tensor,
        end_M: Tensor,
        frequency_M: Tensor,
        presence_M: Tensor,
        repetition_M: Tensor,
        longest: int,
    ) -> None:
        if len(rows_M) and longest:
            penalise[(len(rows_M), triton.cdiv(longest, 64))](
                logits_RV,
                rows_M,
                tokens_SC,
                slots_M,
                first_M,
                end_M,
                frequency_M,
                presence_M,
                repetition_M,
                logits_RV.shape[1],
                tokens_SC.stride(0),
                BLOCK=64,
            )
