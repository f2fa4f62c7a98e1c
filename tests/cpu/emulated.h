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
#include <unistd.h>
#define syscall(...) 0

#if defined(EMULATE_AMX)
#define __AMX_BF16__ 1
#define __AMX_INT8__ 1
#include <immintrin.h>

// Eight tiles and their shapes, as Intel's manual has them. A tile that is read or written as another shape ends the test.
namespace emulated_amx {
struct Config {
    uint8_t palette, start, reserved[14];
    uint16_t line[16];
    uint8_t rows[16];
};
inline thread_local Config config;
inline thread_local char tiles[8][16][64];

inline void check(bool fine) {
    if (!fine) __builtin_trap();
}
inline void clear(int t) { std::memset(tiles[t], 0, sizeof tiles[t]); }
inline void load(int t, const void* from, long stride) {
    clear(t);
    check(config.palette == 1 && config.rows[t] > 0 && config.rows[t] <= 16 && config.line[t] == 64);
    for (int r = 0; r < config.rows[t]; r++) std::memcpy(tiles[t][r], (const char*)from + r * stride, 64);
}
inline void store(int t, void* to, long stride) {
    for (int r = 0; r < config.rows[t]; r++) std::memcpy((char*)to + r * stride, tiles[t][r], 64);
}
inline float number(uint16_t x) {
    if (!(x & 0x7f80)) return 0;  // denormal
    uint32_t bits = uint32_t(x) << 16;
    float out;
    std::memcpy(&out, &bits, 4);
    return out;
}
template <class T>
inline T at(int t, int r, int i) {
    T out;
    std::memcpy(&out, tiles[t][r] + i * sizeof(T), sizeof(T));
    return out;
}
// Even and odd inputs are added up apart, and then to what is there.
inline void floats(int sum, int a, int b) {
    check(config.rows[sum] == config.rows[a] && config.rows[b] == 16);
    for (int r = 0; r < config.rows[sum]; r++)
        for (int n = 0; n < 16; n++) {
            float even = 0, odd = 0;
            for (int k = 0; k < 16; k++) {
                even = std::fma(number(at<uint16_t>(a, r, 2 * k)), number(at<uint16_t>(b, k, 2 * n)), even);
                odd = std::fma(number(at<uint16_t>(a, r, 2 * k + 1)), number(at<uint16_t>(b, k, 2 * n + 1)), odd);
            }
            const float all = at<float>(sum, r, n) + (even + odd);
            std::memcpy(tiles[sum][r] + n * 4, &all, 4);
        }
}
inline void bytes(int sum, int a, int b) {
    check(config.rows[sum] == config.rows[a] && config.rows[b] == 16);
    for (int r = 0; r < config.rows[sum]; r++)
        for (int n = 0; n < 16; n++) {
            int32_t all = at<int32_t>(sum, r, n);
            for (int k = 0; k < 16; k++)
                for (int i = 0; i < 4; i++) all += at<int8_t>(a, r, 4 * k + i) * at<int8_t>(b, k, 4 * n + i);
            std::memcpy(tiles[sum][r] + n * 4, &all, 4);
        }
}
}  // namespace emulated_amx
#undef _tile_loadconfig
#undef _tile_release
#undef _tile_zero
#undef _tile_loadd
#undef _tile_stored
#undef _tile_dpbf16ps
#undef _tile_dpbssd
#define _tile_loadconfig(from) std::memcpy(&emulated_amx::config, from, sizeof emulated_amx::config)
#define _tile_release() std::memset(&emulated_amx::config, 0, sizeof emulated_amx::config)
#define _tile_zero emulated_amx::clear
#define _tile_loadd emulated_amx::load
#define _tile_stored emulated_amx::store
#define _tile_dpbf16ps emulated_amx::floats
#define _tile_dpbssd emulated_amx::bytes
#endif

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
