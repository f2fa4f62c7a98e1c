"""The kernels of `ops.triton` as `Kernels`."""

from __future__ import annotations

from dataclasses import fields

from ramify.ops.kernels import Kernels, Packing
from ramify.ops.reference import basic, fp8
from ramify.ops.triton.experts import Mixtures
from ramify.ops.triton.linear import Linears
from ramify.ops.triton.lora import Loras
from ramify.ops.triton.quantized import Fp8, Int4, Int8
from ramify.ops.triton.rope import Rope
from ramify.ops.triton.rows import Rows
from ramify.ops.triton.sample import Sampling
from ramify.ops.triton.state import States
from ramify.ops.triton.texts import Texts
from ramify.ops.triton.tiles import Tiles


def triton_kernels(invariant: bool = False, tiles: Tiles | None = None) -> Kernels:
    """`invariant` linears give every row bits of its own; the others are torch's, which on CUDA are cuBLAS's. `tiles`
    are those that are quick on the device (`tiles.tuned_tiles`).
    """
    rows, rope, linears, sampling, mixtures = Rows(), Rope(), Linears(tiles), Sampling(), Mixtures(tiles)
    states, eight, four, floats = States(), Int8(tiles), Int4(tiles), Fp8(tiles)
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
        route=mixtures.route,
        by_expert=mixtures.by_expert,
        grouped_linear=mixtures.grouped_linear,
        combine=mixtures.combine,
        sample=sampling.sample,
        best=sampling.best,
        uniform=sampling.uniform,
        log_probabilities=sampling.log_probabilities,
        forbid=sampling.forbid,
        penalise=sampling.penalise,
        layer_norm=rows.layer_norm,
        add_layer_norm=rows.add_layer_norm,
        rotate_qk=rope.rotate_qk,
        attend_texts=Texts().attend_texts,
        conv=states.conv,
        ssd=states.ssd,
        delta=states.delta,
        lora=Loras().lora,
        w8a8=Packing(
            eight.pack, eight.linear, eight.embed, eight.pack_groups, eight.grouped_linear, eight.take, eight.together
        ),
        int4=Packing(four.pack, four.linear, None, four.pack_groups, four.grouped_linear, four.take, four.together),
        fp8=Packing(
            floats.pack, floats.linear, None, floats.pack_groups, floats.grouped_linear, fp8.take, floats.together
        ),
    )


def left_to_torch(kernels: Kernels) -> list[str]:
    """Ops that are still computed by their reference: linears, where invariant ones are not asked for, as cuBLAS is
    quicker.
    """
    reference = Kernels()
    return [
        field.name
        for field in fields(Kernels)
        if field.name not in ("angles", "packing") and getattr(kernels, field.name) is getattr(reference, field.name)
    ]
