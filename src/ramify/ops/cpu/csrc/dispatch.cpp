// The C interface, and the choice of the instruction set: what the machine has, or less if it is told so.
#include <cstdint>
#include <cstring>

#include "api.h"
#include "pool.h"
#include "replay.h"

#if defined(RAMIFY_AMX)
#include <sys/syscall.h>
#include <unistd.h>
#endif
#if defined(RAMIFY_NEONDOT) && defined(__linux__)
#include <sys/auxv.h>
#endif

namespace ramify {

#define DECLARE(isa)               \
    namespace isa {                \
    extern const Linears linears;  \
    }
#define DECLARE_OTHERS(isa)        \
    namespace isa {                \
    extern const Others others;    \
    }
DECLARE(generic)
DECLARE_OTHERS(generic)
#if defined(RAMIFY_X86)
DECLARE(avx2)
DECLARE_OTHERS(avx2)
DECLARE(avx512)
DECLARE_OTHERS(avx512)
DECLARE(avx512vnni)
#endif
#if defined(RAMIFY_ARM)
DECLARE(neon)
DECLARE_OTHERS(neon)
#endif
#if defined(RAMIFY_NEONDOT)
DECLARE(neondot)
#endif
#if defined(RAMIFY_AVXVNNI)
DECLARE(avxvnni)
#endif
#if defined(RAMIFY_AVX512BF16)
DECLARE(avx512bf16)
#endif
#if defined(RAMIFY_AMX)
DECLARE(amx)
#endif

namespace {

struct Set {
    const char* name;
    const Linears* linears;
    const Others* others;
    bool (*there)();
    bool untried = false;  // on no machine that has it: taken only if asked for by name
};

#if defined(RAMIFY_X86)
bool avx2_there() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
bool avx512_there() {
    return avx2_there() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
}
bool vnni_there() { return avx512_there() && __builtin_cpu_supports("avx512vnni"); }
#endif
#if defined(RAMIFY_AVXVNNI)
bool avxvnni_there() { return avx2_there() && __builtin_cpu_supports("avxvnni"); }
#endif
#if defined(RAMIFY_AVX512BF16)
bool bf16_there() { return vnni_there() && __builtin_cpu_supports("avx512bf16"); }
#endif

#if defined(RAMIFY_AMX)
// The processor has it, and the kernel of the system lets this process use it.
bool amx_there() {
    if (!bf16_there() || !__builtin_cpu_supports("amx-bf16") || !__builtin_cpu_supports("amx-int8")) return false;
    return !syscall(SYS_arch_prctl, 0x1023 /* ARCH_REQ_XCOMP_PERM */, 18 /* the data of tiles */);
}
#endif
#if defined(RAMIFY_NEONDOT)
bool dot_there() {
#if defined(__linux__)
    return getauxval(AT_HWCAP) & (1 << 20);  // asimddp
#else
    return true;  // every processor of Apple that is not of Intel
#endif
}
#endif

// The best comes last.
const Set sets[] = {
    {"generic", &generic::linears, &generic::others, [] { return true; }},
#if defined(RAMIFY_ARM)
    {"neon", &neon::linears, &neon::others, [] { return true; }},
#endif
#if defined(RAMIFY_NEONDOT)
    {"neondot", &neondot::linears, &neon::others, dot_there},
#endif
#if defined(RAMIFY_X86)
    {"avx2", &avx2::linears, &avx2::others, avx2_there},
#endif
#if defined(RAMIFY_AVXVNNI)
    {"avxvnni", &avxvnni::linears, &avx2::others, avxvnni_there},
#endif
#if defined(RAMIFY_X86)
    {"avx512", &avx512::linears, &avx512::others, avx512_there},
    {"avx512vnni", &avx512vnni::linears, &avx512::others, vnni_there},
#endif
#if defined(RAMIFY_AVX512BF16)
    {"avx512bf16", &avx512bf16::linears, &avx512::others, bf16_there},
#endif
#if defined(RAMIFY_AMX)
    {"amx", &amx::linears, &avx512::others, amx_there, true},
#endif
};
constexpr int SETS = sizeof(sets) / sizeof(sets[0]);

// The best that is there, and none better than `most`.
const Set* choose(const char* most) {
#if defined(RAMIFY_X86)
    __builtin_cpu_init();
#endif
    int at = SETS - 1;
    for (int i = 0; i < SETS; i++)
        if (!std::strcmp(sets[i].name, most)) at = i;
    while (!sets[at].there() || (sets[at].untried && std::strcmp(sets[at].name, most))) at--;
    return &sets[at];
}

const Set* chosen = choose("");

}  // namespace
}  // namespace ramify

using namespace ramify;

extern "C" {

int ramify_version() { return 11; }
const char* ramify_isa() { return chosen->name; }
const char* ramify_choose(const char* most) {
    chosen = choose(most);
    return chosen->name;
}
void ramify_threads(int count) { set_threads(count); }

// `bf16`: the tensors are bfloat16, else float.
void ramify_pack(int bf16, const void* weight, int64_t outputs, int64_t inputs, void* packed) {
    if (bf16)
        chosen->linears->pack_bf16((const uint16_t*)weight, outputs, inputs, (uint16_t*)packed);
    else
        chosen->linears->pack_f32((const float*)weight, outputs, inputs, (float*)packed);
}

void ramify_linear(int bf16, const void* x, const void* weight, const void* bias, void* y, int64_t rows, int64_t inputs,
                   int64_t outputs, int64_t x_stride, int64_t y_stride) {
    const Linear l = {x, weight, bias, y, rows, inputs, outputs, x_stride, y_stride};
    bf16 ? chosen->linears->linear_bf16(l) : chosen->linears->linear_f32(l);
}

void ramify_embed(int bf16, const int64_t* tokens, int64_t count, const void* packed, int64_t inputs, void* y) {
    if (bf16)
        chosen->linears->embed_bf16(tokens, count, (const uint16_t*)packed, inputs, (uint16_t*)y);
    else
        chosen->linears->embed_f32(tokens, count, (const float*)packed, inputs, (float*)y);
}

// The same with weights in int8; `packed` is bytes.
void ramify_pack_int8(int bf16, const void* weight, int64_t outputs, int64_t inputs, void* packed) {
    if (bf16)
        chosen->linears->pack_int8_bf16((const uint16_t*)weight, outputs, inputs, (int8_t*)packed);
    else
        chosen->linears->pack_int8_f32((const float*)weight, outputs, inputs, (int8_t*)packed);
}

void ramify_linear_int8(int bf16, const void* x, const void* weight, const void* bias, void* y, int64_t rows,
                        int64_t inputs, int64_t outputs, int64_t x_stride, int64_t y_stride) {
    const Linear l = {x, weight, bias, y, rows, inputs, outputs, x_stride, y_stride};
    bf16 ? chosen->linears->linear_int8_bf16(l) : chosen->linears->linear_int8_f32(l);
}

void ramify_embed_int8(const int64_t* tokens, int64_t count, const void* packed, int64_t inputs, float* y) {
    chosen->linears->embed_int8(tokens, count, (const int8_t*)packed, inputs, y);
}

// And in four bits.
void ramify_pack_int4(int bf16, const void* weight, int64_t outputs, int64_t inputs, void* packed) {
    if (bf16)
        chosen->linears->pack_int4_bf16((const uint16_t*)weight, outputs, inputs, (uint8_t*)packed);
    else
        chosen->linears->pack_int4_f32((const float*)weight, outputs, inputs, (uint8_t*)packed);
}

void ramify_linear_int4(int bf16, const void* x, const void* weight, const void* bias, void* y, int64_t rows,
                        int64_t inputs, int64_t outputs, int64_t x_stride, int64_t y_stride) {
    const Linear l = {x, weight, bias, y, rows, inputs, outputs, x_stride, y_stride};
    bf16 ? chosen->linears->linear_int4_bf16(l) : chosen->linears->linear_int4_f32(l);
}

void ramify_norm(int bf16, const void* x, const void* residual, const void* weight, float eps, float offset,
                 int64_t rows, int64_t size, void* y, void* total) {
    if (bf16)
        chosen->others->norm_bf16((const uint16_t*)x, (const uint16_t*)residual, (const uint16_t*)weight, eps, offset, rows,
                          size, (uint16_t*)y, (uint16_t*)total);
    else
        chosen->others->norm_f32((const float*)x, (const float*)residual, (const float*)weight, eps, offset, rows, size,
                         (float*)y, (float*)total);
}

void ramify_activation(int bf16, int kind, int gated, const void* x, int64_t rows, int64_t size, void* y) {
    if (bf16)
        chosen->others->activation_bf16(kind, gated != 0, (const uint16_t*)x, rows, size, (uint16_t*)y);
    else
        chosen->others->activation_f32(kind, gated != 0, (const float*)x, rows, size, (float*)y);
}

void ramify_softcap(float* x, float cap, int64_t count) { chosen->others->softcap(x, cap, count); }

void ramify_grouped(int bf16, const void* x, const void* weight, const void* bias, void* y, const int64_t* offsets,
                    int64_t groups, int64_t inputs, int64_t outputs) {
    const Grouped g = {x, weight, bias, y, offsets, groups, inputs, outputs};
    bf16 ? chosen->linears->grouped_bf16(g) : chosen->linears->grouped_f32(g);
}

void ramify_combine(int bf16, const void* y, const int64_t* rows, const float* weights, int64_t tokens, int64_t count,
                    int64_t size, void* out) {
    if (bf16)
        chosen->others->combine_bf16((const uint16_t*)y, rows, weights, tokens, count, size, (uint16_t*)out);
    else
        chosen->others->combine_f32((const float*)y, rows, weights, tokens, count, size, (float*)out);
}

// `pool`: the type of what is in pages, 0 float, 1 bfloat16, 2 int8.
void ramify_qkv_rope(int bf16, int pool, const void* qkv, const void* q_norm, const void* k_norm, const float* cos,
                     const float* sin, const int64_t* write_at, void* q, void* k_pool, void* v_pool, float eps,
                     float offset, int64_t interleaved, int64_t tokens, int64_t heads, int64_t kv_heads, int64_t size,
                     int64_t rotated, int64_t page_size) {
    const QkvRope a = {qkv,    q_norm, k_norm, cos,    sin,         write_at, q,     k_pool,   v_pool,
                       eps,    offset, interleaved, tokens, heads,  kv_heads, size,  rotated,  page_size};
    chosen->others->qkv_rope[bf16][pool](a);
}

void ramify_attention(int bf16, int pool, const void* q, const void* k_pool, const void* v_pool, const float* sinks,
                      void* out, const int32_t* tables, const int32_t* starts, const int32_t* counts, const int32_t* lengths,
                      float scale, float softcap, int64_t window, int64_t chunk, int64_t rows, int64_t table_stride,
                      int64_t heads, int64_t kv_heads, int64_t size, int64_t v_size, int64_t k_stride, int64_t v_stride,
                      int64_t page_size) {
    const Attention a = {q,       k_pool,  v_pool, sinks, out,          tables, starts,   counts, lengths,  scale,
                         softcap, window,  chunk,  rows,  table_stride, heads,  kv_heads, size,   v_size,   k_stride,
                         v_stride, page_size};
    chosen->others->attention[bf16][pool](a);
}

void ramify_sample(const float* logits, const float* temperature, const float* top_p, const float* min_p,
                   const int64_t* top_k, const double* random, const uint8_t* greedy, int64_t* tokens, uint8_t* broken,
                   int64_t rows, int64_t vocab) {
    chosen->others->sampling({logits, temperature, top_p, min_p, top_k, random, greedy, tokens, broken, rows, vocab});
}

// Random numbers by (seed, choice, position, purpose): Philox-4x32-10 (Salmon et al. 2011), as `ops/reference/random.py` says.
void ramify_uniform(const int64_t* seeds, const int64_t* choices, const int64_t* positions, int64_t purpose,
                    int64_t count, double* out) {
    for (int64_t i = 0; i < count; i++) {
        uint32_t c[4] = {uint32_t(positions[i]), uint32_t(choices[i]), uint32_t(purpose), 0};
        uint32_t key[2] = {uint32_t(seeds[i]), uint32_t(uint64_t(seeds[i]) >> 32)};
        for (int round = 0; round < 10; round++) {
            const uint64_t a = 0xD2511F53ull * c[0], b = 0xCD9E8D57ull * c[2];
            const uint32_t next[4] = {uint32_t(b >> 32) ^ c[1] ^ key[0], uint32_t(b), uint32_t(a >> 32) ^ c[3] ^ key[1],
                                      uint32_t(a)};
            std::memcpy(c, next, sizeof c);
            key[0] += 0x9E3779B9u;
            key[1] += 0xBB67AE85u;
        }
        const uint64_t bits = (uint64_t(c[0] >> 6) << 26) | (c[1] >> 6);
        out[i] = (double(bits) + 0.5) * 0x1p-52;
    }
}

void ramify_layer_norm(int bf16, const void* x, const void* residual, const void* weight, const void* bias, float eps,
                       int64_t rows, int64_t size, void* y, void* total) {
    if (bf16)
        chosen->others->layer_norm_bf16((const uint16_t*)x, (const uint16_t*)residual, (const uint16_t*)weight,
                                (const uint16_t*)bias, eps, rows, size, (uint16_t*)y, (uint16_t*)total);
    else
        chosen->others->layer_norm_f32((const float*)x, (const float*)residual, (const float*)weight, (const float*)bias, eps,
                               rows, size, (float*)y, (float*)total);
}

void ramify_rotate_qk(int bf16, void* qkv, const float* cos, const float* sin, int64_t tokens, int64_t heads,
                      int64_t size) {
    if (bf16)
        chosen->others->rotate_qk_bf16((uint16_t*)qkv, cos, sin, tokens, heads, size);
    else
        chosen->others->rotate_qk_f32((float*)qkv, cos, sin, tokens, heads, size);
}

void ramify_texts(int bf16, const void* qkv, void* out, const int32_t* starts, const int32_t* counts, float scale,
                  int64_t texts, int64_t heads, int64_t size, int64_t window) {
    const Texts a = {qkv, out, starts, counts, scale, texts, heads, size, window};
    bf16 ? chosen->others->texts_bf16(a) : chosen->others->texts_f32(a);
}

void ramify_conv(int bf16, const void* x, const float* weight, const float* bias, void* y, void* pool,
                 const int64_t* starts, const int64_t* from, const int64_t* offsets, const int64_t* ends,
                 const int64_t* to, int64_t rows, int64_t x_stride, int64_t channels, int64_t width) {
    const Conv a = {x, weight, bias, y, pool, {starts, from, offsets, ends, to, rows}, x_stride, channels, width};
    bf16 ? chosen->others->conv_bf16(a) : chosen->others->conv_f32(a);
}

void ramify_ssd(int bf16, const void* x, const void* step, const float* decay, const float* bias, const float* skip,
                float* y, float* pool, const int64_t* starts, const int64_t* from, const int64_t* offsets,
                const int64_t* ends, const int64_t* to, int64_t rows, float low, float high, int64_t step_stride,
                int64_t heads, int64_t groups, int64_t value, int64_t key) {
    const Spans spans = {starts, from, offsets, ends, to, rows};
    const States a = {x, step, nullptr, decay, bias, skip, y, pool, spans, low, high, step_stride, 0, heads, groups, value,
                      key};
    bf16 ? chosen->others->ssd_bf16(a) : chosen->others->ssd_f32(a);
}

void ramify_delta(int bf16, const void* x, const void* step, const void* rate, const float* decay, const float* bias,
                  float* y, float* pool, const int64_t* starts, const int64_t* from, const int64_t* offsets,
                  const int64_t* ends, const int64_t* to, int64_t rows, int64_t step_stride, int64_t rate_stride,
                  int64_t heads, int64_t groups, int64_t value, int64_t key) {
    const Spans spans = {starts, from, offsets, ends, to, rows};
    const States a = {x, step, rate, decay, bias, nullptr, y, pool, spans, 0, 0, step_stride, rate_stride, heads, groups,
                      value, key};
    bf16 ? chosen->others->delta_bf16(a) : chosen->others->delta_f32(a);
}

void ramify_lora(int bf16, void* y, const void* x, const void* runs, const void* parts, int64_t count, int64_t slots,
                 int64_t most, int64_t inputs, int64_t x_stride, int64_t y_stride) {
    const Lora a = {y,     x,    (const LoraRun*)runs, (const LoraPart*)parts, count, slots,
                    most,  inputs, x_stride,           y_stride};
    bf16 ? chosen->others->lora_bf16(a) : chosen->others->lora_f32(a);
}

}  // extern "C"

namespace {

// Every function that a model may call in a step.
const Replayable replayable[] = {
#define REPLAYABLE(name) {#name, Unpack<name>::call}
    REPLAYABLE(ramify_linear),    REPLAYABLE(ramify_embed),     REPLAYABLE(ramify_norm),
    REPLAYABLE(ramify_activation), REPLAYABLE(ramify_qkv_rope), REPLAYABLE(ramify_attention),
    REPLAYABLE(ramify_layer_norm), REPLAYABLE(ramify_grouped),  REPLAYABLE(ramify_combine),
    REPLAYABLE(ramify_conv),      REPLAYABLE(ramify_ssd),       REPLAYABLE(ramify_delta),
    REPLAYABLE(ramify_linear_int8), REPLAYABLE(ramify_embed_int8), REPLAYABLE(ramify_linear_int4),
    REPLAYABLE(ramify_lora),
#undef REPLAYABLE
};

}  // namespace

extern "C" {

// What to write into `Call::function` for a function of this interface; null if it cannot be called again.
void* ramify_replayable(const char* name) {
    for (const Replayable& one : replayable)
        if (!std::strcmp(one.name, name)) return (void*)one.function;
    return nullptr;
}

void ramify_replay(const void* calls, int64_t count) {
    const Call* all = (const Call*)calls;
    for (int64_t i = 0; i < count; i++) all[i].function(all[i].values);
}

}  // extern "C"
