// Vectors of floats in the widest registers of the instruction set this file is compiled for.
//
// Every reduction here has one fixed tree, so that a sum depends on its terms and their places alone. Compiled once per
// instruction set, in a namespace of its own (RAMIFY_ISA).
#pragma once

#include <cstdint>
#include <cstring>

#if defined(RAMIFY_NEON)
#include <arm_neon.h>
#elif defined(__AVX2__) || defined(__AVX512F__)
#include <immintrin.h>
#endif

namespace ramify {
namespace RAMIFY_ISA {

constexpr int PANEL = 16;  // outputs of a linear layer that are packed side by side

inline float bf16_to_float(uint16_t x) {
    uint32_t bits = uint32_t(x) << 16;
    float out;
    std::memcpy(&out, &bits, 4);
    return out;
}

inline uint16_t float_to_bf16(float x) {  // to nearest, ties to even
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    if ((bits & 0x7fffffff) > 0x7f800000) return 0x7fc0;
    return uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

#if defined(__AVX512F__)

struct V {
    static constexpr int N = 16;
    __m512 v;
};
inline V zero() { return {_mm512_setzero_ps()}; }
inline V set1(float x) { return {_mm512_set1_ps(x)}; }
inline V load(const float* p) { return {_mm512_loadu_ps(p)}; }
inline void store(float* p, V a) { _mm512_storeu_ps(p, a.v); }
inline V load(const uint16_t* p) {
    return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p)), 16))};
}
inline void store(uint16_t* p, V a) {
    __m512i u = _mm512_castps_si512(a.v);
    __m512i odd = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
    __m512i r = _mm512_srli_epi32(_mm512_add_epi32(u, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff))), 16);
    r = _mm512_mask_mov_epi32(r, _mm512_cmp_ps_mask(a.v, a.v, _CMP_UNORD_Q), _mm512_set1_epi32(0x7fc0));
    _mm256_storeu_si256((__m256i*)p, _mm512_cvtepi32_epi16(r));
}
inline V fma(V a, V b, V c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
inline V operator+(V a, V b) { return {_mm512_add_ps(a.v, b.v)}; }
inline V operator-(V a, V b) { return {_mm512_sub_ps(a.v, b.v)}; }
inline V operator*(V a, V b) { return {_mm512_mul_ps(a.v, b.v)}; }
inline V operator/(V a, V b) { return {_mm512_div_ps(a.v, b.v)}; }
inline V max(V a, V b) { return {_mm512_max_ps(a.v, b.v)}; }
inline V min(V a, V b) { return {_mm512_min_ps(a.v, b.v)}; }
// Lanes that are NaN in `a` or were before in `seen`; the others are 0.
inline V nans(V seen, V a) {
    return {_mm512_mask_mov_ps(seen.v, _mm512_cmp_ps_mask(a.v, a.v, _CMP_UNORD_Q), a.v)};
}
inline V round(V a) { return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)}; }
inline V scale2(V a, V n) {  // a * 2^n for whole n in [-126, 127]
    __m512i e = _mm512_slli_epi32(_mm512_add_epi32(_mm512_cvtps_epi32(n.v), _mm512_set1_epi32(127)), 23);
    return {_mm512_mul_ps(a.v, _mm512_castsi512_ps(e))};
}
// Two bf16 numbers in each 32-bit lane: the lower and the higher.
struct Pairs {
    __m512i bits;
};
inline Pairs load_pairs(const uint16_t* p) { return {_mm512_loadu_si512(p)}; }
inline V low(Pairs a) { return {_mm512_castsi512_ps(_mm512_slli_epi32(a.bits, 16))}; }
inline V high(Pairs a) {
    return {_mm512_castsi512_ps(_mm512_and_si512(a.bits, _mm512_set1_epi32(int32_t(0xffff0000u))))};
}

// Lane i is added to lane i + N/2, again and again.
inline float sum(__m128 x) {
    x = _mm_add_ps(x, _mm_movehl_ps(x, x));
    return _mm_cvtss_f32(_mm_add_ss(x, _mm_shuffle_ps(x, x, 1)));
}
inline float sum(__m256 x) { return sum(_mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1))); }
inline float sum(V a) { return sum(_mm256_add_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1))); }
inline float first_of(V a) { return _mm_cvtss_f32(_mm512_castps512_ps128(a.v)); }

#elif defined(__AVX2__)

struct V {
    static constexpr int N = 8;
    __m256 v;
};
inline V zero() { return {_mm256_setzero_ps()}; }
inline V set1(float x) { return {_mm256_set1_ps(x)}; }
inline V load(const float* p) { return {_mm256_loadu_ps(p)}; }
inline void store(float* p, V a) { _mm256_storeu_ps(p, a.v); }
inline V load(const uint16_t* p) {
    return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)p)), 16))};
}
inline void store(uint16_t* p, V a) {
    __m256i u = _mm256_castps_si256(a.v);
    __m256i odd = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
    __m256i r = _mm256_srli_epi32(_mm256_add_epi32(u, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff))), 16);
    __m256 nan = _mm256_cmp_ps(a.v, a.v, _CMP_UNORD_Q);
    r = _mm256_blendv_epi8(r, _mm256_set1_epi32(0x7fc0), _mm256_castps_si256(nan));
    _mm_storeu_si128((__m128i*)p, _mm_packus_epi32(_mm256_castsi256_si128(r), _mm256_extracti128_si256(r, 1)));
}
inline V fma(V a, V b, V c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }
inline V operator+(V a, V b) { return {_mm256_add_ps(a.v, b.v)}; }
inline V operator-(V a, V b) { return {_mm256_sub_ps(a.v, b.v)}; }
inline V operator*(V a, V b) { return {_mm256_mul_ps(a.v, b.v)}; }
inline V operator/(V a, V b) { return {_mm256_div_ps(a.v, b.v)}; }
inline V max(V a, V b) { return {_mm256_max_ps(a.v, b.v)}; }
inline V min(V a, V b) { return {_mm256_min_ps(a.v, b.v)}; }
inline V nans(V seen, V a) { return {_mm256_blendv_ps(seen.v, a.v, _mm256_cmp_ps(a.v, a.v, _CMP_UNORD_Q))}; }
inline V round(V a) { return {_mm256_round_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)}; }
inline V scale2(V a, V n) {
    __m256i e = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n.v), _mm256_set1_epi32(127)), 23);
    return {_mm256_mul_ps(a.v, _mm256_castsi256_ps(e))};
}
struct Pairs {
    __m256i bits;
};
inline Pairs load_pairs(const uint16_t* p) { return {_mm256_loadu_si256((const __m256i*)p)}; }
inline V low(Pairs a) { return {_mm256_castsi256_ps(_mm256_slli_epi32(a.bits, 16))}; }
inline V high(Pairs a) {
    return {_mm256_castsi256_ps(_mm256_and_si256(a.bits, _mm256_set1_epi32(int32_t(0xffff0000u))))};
}

// Lane i is added to lane i + N/2, again and again.
inline float sum(V a) {
    __m128 x = _mm_add_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
    x = _mm_add_ps(x, _mm_movehl_ps(x, x));
    return _mm_cvtss_f32(_mm_add_ss(x, _mm_shuffle_ps(x, x, 1)));
}
inline float first_of(V a) { return _mm256_cvtss_f32(a.v); }

#elif defined(RAMIFY_NEON)

struct V {
    static constexpr int N = 4;
    float32x4_t v;
};
inline V zero() { return {vdupq_n_f32(0)}; }
inline V set1(float x) { return {vdupq_n_f32(x)}; }
inline V load(const float* p) { return {vld1q_f32(p)}; }
inline void store(float* p, V a) { vst1q_f32(p, a.v); }
inline V load(const uint16_t* p) { return {vreinterpretq_f32_u32(vshlq_n_u32(vmovl_u16(vld1_u16(p)), 16))}; }
inline void store(uint16_t* p, V a) {
    uint32x4_t u = vreinterpretq_u32_f32(a.v);
    uint32x4_t odd = vandq_u32(vshrq_n_u32(u, 16), vdupq_n_u32(1));
    uint32x4_t r = vshrq_n_u32(vaddq_u32(u, vaddq_u32(odd, vdupq_n_u32(0x7fff))), 16);
    vst1_u16(p, vmovn_u32(vbslq_u32(vceqq_f32(a.v, a.v), r, vdupq_n_u32(0x7fc0))));
}
inline V fma(V a, V b, V c) { return {vfmaq_f32(c.v, a.v, b.v)}; }
inline V operator+(V a, V b) { return {vaddq_f32(a.v, b.v)}; }
inline V operator-(V a, V b) { return {vsubq_f32(a.v, b.v)}; }
inline V operator*(V a, V b) { return {vmulq_f32(a.v, b.v)}; }
inline V operator/(V a, V b) { return {vdivq_f32(a.v, b.v)}; }
// Where one is NaN the second is taken, as on x86.
inline V max(V a, V b) { return {vbslq_f32(vcgtq_f32(a.v, b.v), a.v, b.v)}; }
inline V min(V a, V b) { return {vbslq_f32(vcltq_f32(a.v, b.v), a.v, b.v)}; }
inline V nans(V seen, V a) { return {vbslq_f32(vceqq_f32(a.v, a.v), seen.v, a.v)}; }
inline V round(V a) { return {vrndnq_f32(a.v)}; }
inline V scale2(V a, V n) {
    int32x4_t e = vshlq_n_s32(vaddq_s32(vcvtq_s32_f32(n.v), vdupq_n_s32(127)), 23);
    return {vmulq_f32(a.v, vreinterpretq_f32_s32(e))};
}
struct Pairs {
    uint32x4_t bits;
};
inline Pairs load_pairs(const uint16_t* p) { return {vreinterpretq_u32_u16(vld1q_u16(p))}; }
inline V low(Pairs a) { return {vreinterpretq_f32_u32(vshlq_n_u32(a.bits, 16))}; }
inline V high(Pairs a) { return {vreinterpretq_f32_u32(vandq_u32(a.bits, vdupq_n_u32(0xffff0000u)))}; }

// Lane i is added to lane i + N/2, again and again.
inline float sum(V a) {
    float32x2_t x = vadd_f32(vget_low_f32(a.v), vget_high_f32(a.v));
    return vget_lane_f32(x, 0) + vget_lane_f32(x, 1);
}
inline float first_of(V a) { return vgetq_lane_f32(a.v, 0); }

#else  // any machine, by the compiler's own vectors

typedef float F4 __attribute__((vector_size(16)));
typedef int32_t I4 __attribute__((vector_size(16)));
struct V {
    static constexpr int N = 4;
    F4 v;
};
inline V zero() { return {F4{0, 0, 0, 0}}; }
inline V set1(float x) { return {F4{x, x, x, x}}; }
inline V load(const float* p) {
    V a;
    std::memcpy(&a.v, p, 16);
    return a;
}
inline void store(float* p, V a) { std::memcpy(p, &a.v, 16); }
inline V load(const uint16_t* p) {
    return {F4{bf16_to_float(p[0]), bf16_to_float(p[1]), bf16_to_float(p[2]), bf16_to_float(p[3])}};
}
inline void store(uint16_t* p, V a) {
    for (int i = 0; i < 4; i++) p[i] = float_to_bf16(a.v[i]);
}
inline V operator+(V a, V b) { return {a.v + b.v}; }
inline V operator-(V a, V b) { return {a.v - b.v}; }
inline V operator*(V a, V b) { return {a.v * b.v}; }
inline V operator/(V a, V b) { return {a.v / b.v}; }
inline V fma(V a, V b, V c) { return {a.v * b.v + c.v}; }
inline V max(V a, V b) { return {a.v > b.v ? a.v : b.v}; }
inline V min(V a, V b) { return {a.v < b.v ? a.v : b.v}; }
inline V nans(V seen, V a) {
    for (int i = 0; i < 4; i++) seen.v[i] = a.v[i] != a.v[i] ? a.v[i] : seen.v[i];
    return seen;
}
inline V round(V a) {
    for (int i = 0; i < 4; i++) a.v[i] = __builtin_rintf(a.v[i]);
    return a;
}
inline V scale2(V a, V n) {
    for (int i = 0; i < 4; i++) {
        int32_t bits = (int32_t(n.v[i]) + 127) << 23;
        float power;
        std::memcpy(&power, &bits, 4);
        a.v[i] *= power;
    }
    return a;
}
struct Pairs {
    I4 bits;
};
inline Pairs load_pairs(const uint16_t* p) {
    Pairs a;
    std::memcpy(&a.bits, p, 16);
    return a;
}
inline V low(Pairs a) {
    I4 bits = a.bits << 16;
    V out;
    std::memcpy(&out.v, &bits, 16);
    return out;
}
inline V high(Pairs a) {
    I4 bits = a.bits & int32_t(0xffff0000u);
    V out;
    std::memcpy(&out.v, &bits, 16);
    return out;
}

// Lane i is added to lane i + N/2, again and again.
inline float sum(V a) { return (a.v[0] + a.v[2]) + (a.v[1] + a.v[3]); }
inline float first_of(V a) { return a.v[0]; }

#endif

inline float largest(V a) {
    alignas(64) float x[V::N];
    store(x, a);
    float best = x[0];
    for (int i = 1; i < V::N; i++) best = x[i] > best ? x[i] : best;
    return best;
}

// e^x between -87 and 88, and what it is there beyond; NaN stays NaN. Relative error under 2e-7 (Cody and Waite reduction, a polynomial of degree 6).
inline V exp(V x) {
    V clipped = min(set1(88.0f), max(set1(-87.0f), x));
    V n = round(clipped * set1(1.44269504088896341f));
    V r = fma(n, set1(-0.693359375f), clipped);
    r = fma(n, set1(2.12194440e-4f), r);
    V p = set1(1.9875691500e-4f);
    p = fma(p, r, set1(1.3981999507e-3f));
    p = fma(p, r, set1(8.3334519073e-3f));
    p = fma(p, r, set1(4.1665795894e-2f));
    p = fma(p, r, set1(1.6666665459e-1f));
    p = fma(p, r, set1(5.0000001201e-1f));
    p = fma(p, r * r, r + set1(1.0f));
    return scale2(p, n);
}

// To about 1e-7 of 1, not of the result.
inline V tanh(V x) { return set1(1.0f) - set1(2.0f) / (exp(x + x) + set1(1.0f)); }

inline V absolute(V x) { return max(x, zero() - x); }

}  // namespace RAMIFY_ISA
}  // namespace ramify
