// Instructions that this machine lacks, by SIMDe (Debian: libsimde-dev): for tests of what they compute, not of how fast.
// Included before everything else. SETS of `ramify.ops.cpu.library` are chosen by EMULATE_VNNI and EMULATE_BF16.
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>
#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512.h>

#if defined(EMULATE_AVXVNNI)
#define __AVXVNNI__ 1
#define _mm256_dpbusd_avx_epi32 simde_mm256_dpbusd_epi32
#else
#define __AVX512F__ 1
#endif
#if defined(EMULATE_VNNI)
#define __AVX512VNNI__ 1
#endif
#if defined(EMULATE_BF16)
#define __AVX512BF16__ 1
#endif

#define __builtin_cpu_supports(feature) 1

// What SIMDe 0.7 lacks, or has a slip in.
#undef _mm512_madd_epi16
#define _mm512_madd_epi16(a, b) simde_mm512_madd_epi16(a, b)

// Sixteen numbers of one type as another.
template <class Out, class To, class From, class In>
inline Out converted(In in) {
    From x[16];
    To y[16];
    static_assert(sizeof x == sizeof in && sizeof y == sizeof(Out));
    std::memcpy(x, &in, sizeof x);
    for (int i = 0; i < 16; i++) {
        if constexpr (std::is_floating_point_v<From>) x[i] = std::rint(x[i]);
        y[i] = To(x[i]);
    }
    Out out;
    std::memcpy(&out, y, sizeof y);
    return out;
}
#define _mm512_cvtepu16_epi32 converted<__m512i, int32_t, uint16_t>
#define _mm512_cvtepi32_epi16 converted<__m256i, int16_t, int32_t>
#define _mm512_cvtepi32_ps converted<__m512, float, int32_t>
#define _mm512_cvtps_epi32 converted<__m512i, int32_t, float>
#define _mm512_cvtepi8_epi32 converted<__m512i, int32_t, int8_t>

inline __m256 half_of(__m512 in, int which) {
    float x[16];
    __m256 out;
    std::memcpy(x, &in, sizeof x);
    std::memcpy(&out, x + 8 * which, sizeof out);
    return out;
}
#define _mm512_extractf32x8_ps half_of
