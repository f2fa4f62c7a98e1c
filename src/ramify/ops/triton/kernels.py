"""The kernels of `ops.triton` as `Kernels`."""

from __future__ import annotations

from dataclasses import fields

from ramify.ops.kernels import Kernels, Packing
from ramify.ops.reference import basic, fp8
from ramify.ops.triton.linear import Linears
from ramify.ops.triton.quantized import Fp8, Int4, Int8
from ramify.ops.triton.rope import Rope
from ramify.ops.triton.rows import Rows
from ramify.ops.triton.sample import Sampling
from ramify.ops.triton.state import States


def triton_kernels(invariant: bool = False) -> Kernels:
    """`invariant` linears give every row bits of its own; the others are torch's, which on CUDA are cuBLAS's."""
    rows, rope, linears, sampling = Rows(), Rope(), Linears(), Sampling()
    states, eight, four = States(), Int8(), Int4()
    return Kernels(
        linear=linears.linear if invariant else basic.linear,
        embed=rows.embed,
        rms_norm=rows.rms_norm,
        add_rms_norm=rows.add_rms_norm,
        gated=rows.gated,
        activate=rows.activate,
        softcap=rows.softcap,
        qkv_rope_store=rope.qkv_rope_store,
        rotate=rope.rotate,
        store=rope.store,
        grouped_linear=linears.grouped_linear,
        combine=linears.combine,
        sample=sampling.sample,
        uniform=sampling.uniform,
        log_probabilities=sampling.log_probabilities,
        forbid=sampling.forbid,
        penalise=sampling.penalise,
        layer_norm=rows.layer_norm,
        add_layer_norm=rows.add_layer_norm,
        rotate_qk=rope.rotate_qk,
        conv=states.conv,
        ssd=states.ssd,
        delta=states.delta,
        w8a8=Packing(eight.pack, eight.linear, eight.embed, take=eight.take),
        int4=Packing(four.pack, four.linear, take=four.take),
        fp8=Packing(fp8.store, Fp8().linear, take=fp8.take),
    )


def left_to_torch(kernels: Kernels) -> list[str]:
    """Ops that are still computed by their reference."""
    reference = Kernels()
    return [
        field.name
        for field in fields(Kernels)
        if field.name not in ("angles", "packing") and getattr(kernels, field.name) is getattr(reference, field.name)
    ]
