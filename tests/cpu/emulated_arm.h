// NEON on a machine of another kind, by SIMDe: for tests of what the kernels compute, not of how fast.
// Stands in for arm_neon.h.
#pragma once
#include <sys/auxv.h>
#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/arm/neon.h>
#undef __AVX2__

inline float32x4_t vdivq_f32(float32x4_t a, float32x4_t b) { return a / b; }

#define getauxval(what) ~0ul
