// Vectors of int32 and exact dot products of int8, beside the floats of simd.h.
//
// A lane of four bytes is taken apart into PARTS parts, as many as the instruction set needs to multiply them without
// saturating: dot(sum, part, x) adds to each lane what the part holds times what `word` made of the same inputs.
#pragma once

#include "simd.h"

namespace ramify {
namespace RAMIFY_ISA {

#if defined(__AVX512F__)

struct Ints {
    __m512i v;
};
inline Ints load_ints(const void* p) { return {_mm512_loadu_si512(p)}; }
inline Ints set1_int(int32_t x) { return {_mm512_set1_epi32(x)}; }
inline Ints operator+(Ints a, Ints b) { return {_mm512_add_epi32(a.v, b.v)}; }
inline Ints operator-(Ints a, Ints b) { return {_mm512_sub_epi32(a.v, b.v)}; }
inline V to_float(Ints a) { return {_mm512_cvtepi32_ps(a.v)}; }
inline Ints shifted(Ints a) { return {_mm512_slli_epi32(a.v, 7)}; }  // times 128
inline V load(const int8_t* p) {
    return {_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)p)))};
}
inline void store_bytes(int8_t* p, V a) { _mm_storeu_si128((__m128i*)p, _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(a.v))); }

// Halves of bytes, 0 to 15, times int8: at most 32 inputs are added up before `half_sum`.
constexpr int HALF_PARTS = 1;
inline Ints low_halves(Ints w) { return {_mm512_and_si512(w.v, _mm512_set1_epi8(15))}; }
inline Ints high_halves(Ints w) { return {_mm512_and_si512(_mm512_srli_epi16(w.v, 4), _mm512_set1_epi8(15))}; }
#if defined(__AVX512VNNI__)
inline Ints half_dot(Ints sum, Ints w, const int32_t* x, int64_t) {
    return {_mm512_dpbusd_epi32(sum.v, w.v, _mm512_set1_epi32(*x))};
}
inline Ints half_sum(Ints sum) { return sum; }
#else
inline Ints half_dot(Ints sum, Ints w, const int32_t* x, int64_t) {
    return {_mm512_add_epi16(sum.v, _mm512_maddubs_epi16(w.v, _mm512_set1_epi32(*x)))};
}
inline Ints half_sum(Ints sum) { return {_mm512_madd_epi16(sum.v, _mm512_set1_epi16(1))}; }
#endif

#if defined(__AVX512VNNI__)
constexpr int PARTS = 1;
constexpr bool OFFSET = true;  // 128 is added to inputs, since the instruction wants one side unsigned
template <int>
inline Ints part(Ints w) { return w; }
inline Ints dot(Ints sum, Ints w, Ints x) { return {_mm512_dpbusd_epi32(sum.v, x.v, w.v)}; }
#else
constexpr int PARTS = 2;
constexpr bool OFFSET = false;
template <int P>
inline Ints part(Ints w) { return {P ? _mm512_srai_epi16(w.v, 8) : _mm512_srai_epi16(_mm512_slli_epi16(w.v, 8), 8)}; }
inline Ints dot(Ints sum, Ints w, Ints x) { return {_mm512_add_epi32(sum.v, _mm512_madd_epi16(w.v, x.v))}; }
#endif

#elif defined(__AVX2__)

struct Ints {
    __m256i v;
};
inline Ints load_ints(const void* p) { return {_mm256_loadu_si256((const __m256i*)p)}; }
inline Ints set1_int(int32_t x) { return {_mm256_set1_epi32(x)}; }
inline Ints operator+(Ints a, Ints b) { return {_mm256_add_epi32(a.v, b.v)}; }
inline Ints operator-(Ints a, Ints b) { return {_mm256_sub_epi32(a.v, b.v)}; }
inline V to_float(Ints a) { return {_mm256_cvtepi32_ps(a.v)}; }
inline Ints shifted(Ints a) { return {_mm256_slli_epi32(a.v, 7)}; }  // times 128
inline V load(const int8_t* p) {
    return {_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)p)))};
}
inline void store_bytes(int8_t* p, V a) {
    const __m256i i = _mm256_cvtps_epi32(a.v);
    const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(i), _mm256_extracti128_si256(i, 1));
    _mm_storel_epi64((__m128i*)p, _mm_packs_epi16(words, words));
}

#if defined(__AVXVNNI__)
constexpr int PARTS = 1;
constexpr bool OFFSET = true;
template <int>
inline Ints part(Ints w) { return w; }
inline Ints dot(Ints sum, Ints w, Ints x) { return {_mm256_dpbusd_avx_epi32(sum.v, x.v, w.v)}; }
#else
constexpr int PARTS = 2;
constexpr bool OFFSET = false;
template <int P>
inline Ints part(Ints w) { return {P ? _mm256_srai_epi16(w.v, 8) : _mm256_srai_epi16(_mm256_slli_epi16(w.v, 8), 8)}; }
inline Ints dot(Ints sum, Ints w, Ints x) { return {_mm256_add_epi32(sum.v, _mm256_madd_epi16(w.v, x.v))}; }
#endif

constexpr int HALF_PARTS = 1;
inline Ints low_halves(Ints w) { return {_mm256_and_si256(w.v, _mm256_set1_epi8(15))}; }
inline Ints high_halves(Ints w) { return {_mm256_and_si256(_mm256_srli_epi16(w.v, 4), _mm256_set1_epi8(15))}; }
#if defined(__AVXVNNI__)
inline Ints half_dot(Ints sum, Ints w, const int32_t* x, int64_t) {
    return {_mm256_dpbusd_avx_epi32(sum.v, w.v, _mm256_set1_epi32(*x))};
}
inline Ints half_sum(Ints sum) { return sum; }
#else
inline Ints half_dot(Ints sum, Ints w, const int32_t* x, int64_t) {
    return {_mm256_add_epi16(sum.v, _mm256_maddubs_epi16(w.v, _mm256_set1_epi32(*x)))};
}
inline Ints half_sum(Ints sum) { return {_mm256_madd_epi16(sum.v, _mm256_set1_epi16(1))}; }
#endif

#elif defined(RAMIFY_NEON)

struct Ints {
    int32x4_t v;
};
inline Ints load_ints(const void* p) { return {vld1q_s32((const int32_t*)p)}; }
inline Ints set1_int(int32_t x) { return {vdupq_n_s32(x)}; }
inline Ints operator+(Ints a, Ints b) { return {vaddq_s32(a.v, b.v)}; }
inline Ints operator-(Ints a, Ints b) { return {vsubq_s32(a.v, b.v)}; }
inline V to_float(Ints a) { return {vcvtq_f32_s32(a.v)}; }
inline Ints shifted(Ints a) { return {vshlq_n_s32(a.v, 7)}; }  // times 128
inline V load(const int8_t* p) { return {float32x4_t{float(p[0]), float(p[1]), float(p[2]), float(p[3])}}; }
inline void store_bytes(int8_t* p, V a) {
    a = max(set1(-127.0f), min(set1(127.0f), round(a)));
    const int32x4_t whole = vcvtq_s32_f32(a.v);
    for (int i = 0; i < 4; i++) p[i] = int8_t(whole[i]);
}

constexpr bool OFFSET = false;
#if defined(RAMIFY_DOT)
constexpr int PARTS = 1;
template <int>
inline Ints part(Ints w) { return w; }
inline Ints dot(Ints sum, Ints w, Ints x) {
    return {vdotq_s32(sum.v, vreinterpretq_s8_s32(w.v), vreinterpretq_s8_s32(x.v))};
}
#else
constexpr int PARTS = 2;
template <int P>
inline Ints part(Ints w) {
    const int16x8_t both = vreinterpretq_s16_s32(w.v);
    return {vreinterpretq_s32_s16(vshrq_n_s16(P ? both : vshlq_n_s16(both, 8), 8))};
}
// A product of two int8 has 15 bits.
inline Ints dot(Ints sum, Ints w, Ints x) {
    return {vpadalq_s16(sum.v, vmulq_s16(vreinterpretq_s16_s32(w.v), vreinterpretq_s16_s32(x.v)))};
}
#endif

constexpr int HALF_PARTS = PARTS;
inline Ints low_halves(Ints w) { return {vandq_s32(w.v, vdupq_n_s32(0x0f0f0f0f))}; }
inline Ints high_halves(Ints w) { return {vandq_s32(vshrq_n_s32(w.v, 4), vdupq_n_s32(0x0f0f0f0f))}; }
inline Ints half_dot(Ints sum, Ints w, const int32_t* x, int64_t apart) {
    sum = dot(sum, part<0>(w), set1_int(x[0]));
    if constexpr (PARTS == 2) sum = dot(sum, part<1>(w), set1_int(x[apart]));
    return sum;
}
inline Ints half_sum(Ints sum) { return sum; }

#else  // any machine

struct Ints {
    I4 v;
};
inline Ints load_ints(const void* p) {
    Ints a;
    std::memcpy(&a.v, p, 16);
    return a;
}
inline Ints set1_int(int32_t x) { return {I4{x, x, x, x}}; }
inline Ints operator+(Ints a, Ints b) { return {a.v + b.v}; }
inline Ints operator-(Ints a, Ints b) { return {a.v - b.v}; }
inline V to_float(Ints a) { return {__builtin_convertvector(a.v, F4)}; }
inline Ints shifted(Ints a) { return {a.v * 128}; }
inline V load(const int8_t* p) { return {F4{float(p[0]), float(p[1]), float(p[2]), float(p[3])}}; }
inline void store_bytes(int8_t* p, V a) {
    a = max(set1(-127.0f), min(set1(127.0f), round(a)));
    for (int i = 0; i < 4; i++) p[i] = int8_t(a.v[i]);
}

constexpr int PARTS = 4;
constexpr bool OFFSET = false;
template <int P>
inline Ints part(Ints w) { return {w.v << (24 - 8 * P) >> 24}; }
inline Ints dot(Ints sum, Ints w, Ints x) { return {sum.v + w.v * x.v}; }

constexpr int HALF_PARTS = 4;
inline Ints low_halves(Ints w) { return {w.v & 0x0f0f0f0f}; }
inline Ints high_halves(Ints w) { return {w.v >> 4 & 0x0f0f0f0f}; }
inline Ints half_dot(Ints sum, Ints w, const int32_t* x, int64_t apart) {
    sum = dot(sum, part<0>(w), set1_int(x[0]));
    sum = dot(sum, part<1>(w), set1_int(x[apart]));
    sum = dot(sum, part<2>(w), set1_int(x[2 * apart]));
    return dot(sum, part<3>(w), set1_int(x[3 * apart]));
}
inline Ints half_sum(Ints sum) { return sum; }

#endif

// Four inputs of a row as PARTS words, each to be broadcast and multiplied with that part.
inline void words(const int8_t* x, int32_t* out, int64_t apart) {
    if constexpr (PARTS == 1) {
        uint32_t four;
        std::memcpy(&four, x, 4);
        if constexpr (OFFSET) four ^= 0x80808080u;
        std::memcpy(out, &four, 4);
    } else if constexpr (PARTS == 2) {
        for (int p = 0; p < 2; p++) out[p * apart] = int32_t(uint32_t(uint16_t(x[p])) | uint32_t(uint16_t(x[2 + p])) << 16);
    } else {
        for (int p = 0; p < 4; p++) out[p * apart] = x[p];
    }
}

// The same for halves.
inline void half_words(const int8_t* x, int32_t* out, int64_t apart) {
    if constexpr (HALF_PARTS == 1)
        std::memcpy(out, x, 4);
    else
        words(x, out, apart);
}

}  // namespace RAMIFY_ISA
}  // namespace ramify
