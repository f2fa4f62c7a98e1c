// What one instruction set brings: a table of functions, all over plain memory.
//
// Sizes are in elements. Numbers are float (f32) or bfloat16 (uint16_t); "T" is either, the same for all tensors of a
// call unless said.
#pragma once

#include <cstdint>

namespace ramify {

struct Linear {
    const void* x;       // [rows, inputs], rows `x_stride` apart
    const void* weight;  // packed, see linear.inc
    const void* bias;    // [outputs] or null
    void* y;             // [rows, outputs], rows `y_stride` apart
    int64_t rows, inputs, outputs, x_stride, y_stride;
};

struct QkvRope {
    const void* qkv;                 // [tokens, (heads + 2 kv_heads) size]
    const void* q_norm;              // [size] or null
    const void* k_norm;
    const float* cos;                // [tokens, rotated / 2]
    const float* sin;
    const int64_t* write_at;         // [tokens]: page * page_size + offset
    void* q;                         // [tokens, heads, size]
    void* k_pool;                    // [pages, kv_heads, page_size, size], or int8 rows with their scales
    void* v_pool;
    float eps, offset;               // of the norms; `offset` is added to their weights
    int64_t interleaved, tokens, heads, kv_heads, size, rotated, page_size;
};

struct Attention {
    const void* q;           // [tokens, heads, size]
    const void* k_pool;      // [pages, kv_heads, page_size], each key `k_stride` apart
    const void* v_pool;      // likewise, `v_stride`
    const float* sinks;      // [heads] or null
    void* out;               // [tokens, heads, v_size]
    const int32_t* tables;   // [rows, table_stride]
    const int32_t* starts;   // [rows]: first query of a row
    const int32_t* counts;   // [rows]: its queries, the last of its positions
    const int32_t* lengths;  // [rows]: its positions
    float scale, softcap;    // softcap 0: none
    int64_t window;          // keys that a query sees, its own included; 0: all
    int64_t chunk;           // a query sees the keys of its own chunk of so many positions; 0: all
    int64_t rows, table_stride, heads, kv_heads, size, v_size, k_stride, v_stride, page_size;
};

// Rows that are sorted by the weight they are multiplied with: those of weight g are [offsets[g], offsets[g + 1]).
struct Grouped {
    const void* x;           // [rows, inputs]
    const void* weight;      // [groups], each packed, see linear.inc
    const void* bias;        // [groups, outputs] or null
    void* y;                 // [rows, outputs]
    const int64_t* offsets;  // [groups + 1]
    int64_t groups, inputs, outputs;
};

struct Texts {
    const void* qkv;        // [tokens, 3 heads size]
    void* out;              // [tokens, heads, size]
    const int32_t* starts;  // [texts]: first token of a text
    const int32_t* counts;  // [texts]: its tokens
    float scale;
    int64_t texts, heads, size, window;  // a window of 0 is none
};

// Where rows of a step read and leave states, as `ops/states.py` says. Slot 0 is zeros.
struct Spans {
    const int64_t *starts, *from, *offsets, *ends, *to;
    int64_t rows;
};

constexpr int64_t MOST_WIDTH = 16, CONV_CHANNELS = 256;

struct Conv {
    const void* x;        // [tokens, channels], rows `x_stride` apart
    const float* weight;  // [width, channels]
    const float* bias;    // [channels] or null
    void* y;              // [tokens, channels]
    void* pool;           // [slots, width - 1, channels]
    Spans spans;
    int64_t x_stride, channels, width;
};

// The selective scan and the delta rule.
struct States {
    const void* x;     // [tokens, channels]: values, keys to write, keys to read; or keys to read, to write, values
    const void* step;  // [tokens, heads], rows `step_stride` apart
    const void* rate;  // likewise; delta rule only
    const float *decay, *bias, *skip;  // [heads]; `skip` is the scan's
    float* y;          // [tokens, heads, value]
    float* pool;       // [slots, heads, value, key]; of the delta rule [slots, heads, key, value]
    Spans spans;
    float low, high;   // limits of a step of the scan
    int64_t step_stride, rate_stride, heads, groups, value, key;
};

// What an adapter does to outputs [begin, begin + outputs). Rank 0: nothing.
struct LoraPart {
    const void* down;  // [rank, inputs]
    const void* up;    // [rank, outputs]
    int64_t rank, begin, outputs;
    double scale;
};
static_assert(sizeof(LoraPart) == 6 * 8);  // FIELDS of ops/lora.py

struct LoraRun {
    int32_t start, stop, slot;  // rows [start, stop)
};

struct Lora {
    void* y;                // [rows, outputs of all parts], rows `y_stride` apart
    const void* x;          // [rows, inputs], rows `x_stride` apart
    const LoraRun* runs;    // [count], no row twice
    const LoraPart* parts;  // [slots, most]
    int64_t count, slots, most, inputs, x_stride, y_stride;
};

struct Sampling {
    const float* logits;  // [rows, vocab]
    const float* temperature;
    const float* top_p;
    const float* min_p;
    const int64_t* top_k;
    const double* random;  // in [0, 1)
    const uint8_t* greedy;
    int64_t* tokens;
    uint8_t* broken;
    int64_t rows, vocab;
};

// What is done with packed weights: it has instruction sets of its own.
struct Linears {
    void (*pack_f32)(const float* weight, int64_t outputs, int64_t inputs, float* packed);
    void (*pack_bf16)(const uint16_t* weight, int64_t outputs, int64_t inputs, uint16_t* packed);
    void (*linear_f32)(const Linear&);
    void (*linear_bf16)(const Linear&);
    void (*embed_f32)(const int64_t* tokens, int64_t count, const float* packed, int64_t inputs, float* y);
    void (*embed_bf16)(const int64_t* tokens, int64_t count, const uint16_t* packed, int64_t inputs, uint16_t* y);
    void (*grouped_f32)(const Grouped&);
    void (*grouped_bf16)(const Grouped&);
    void (*pack_int8_f32)(const float* weight, int64_t outputs, int64_t inputs, int8_t* packed);
    void (*pack_int8_bf16)(const uint16_t* weight, int64_t outputs, int64_t inputs, int8_t* packed);
    void (*linear_int8_f32)(const Linear&);
    void (*linear_int8_bf16)(const Linear&);
    void (*embed_int8)(const int64_t* tokens, int64_t count, const int8_t* packed, int64_t inputs, float* y);
    void (*pack_int4_f32)(const float* weight, int64_t outputs, int64_t inputs, uint8_t* packed);
    void (*pack_int4_bf16)(const uint16_t* weight, int64_t outputs, int64_t inputs, uint8_t* packed);
    void (*linear_int4_f32)(const Linear&);
    void (*linear_int4_bf16)(const Linear&);
};

// All else.
struct Others {
    void (*norm_f32)(const float* x, const float* residual, const float* weight, float eps, float offset, int64_t rows,
                     int64_t size, float* y, float* total);
    void (*norm_bf16)(const uint16_t* x, const uint16_t* residual, const uint16_t* weight, float eps, float offset,
                      int64_t rows, int64_t size, uint16_t* y, uint16_t* total);
    void (*activation_f32)(int kind, bool gated, const float* x, int64_t rows, int64_t size, float* y);
    void (*activation_bf16)(int kind, bool gated, const uint16_t* x, int64_t rows, int64_t size, uint16_t* y);
    void (*softcap)(float* x, float cap, int64_t count);
    void (*combine_f32)(const float* y, const int64_t* rows, const float* weights, int64_t tokens, int64_t chosen,
                        int64_t size, float* out);
    void (*combine_bf16)(const uint16_t* y, const int64_t* rows, const float* weights, int64_t tokens, int64_t chosen,
                         int64_t size, uint16_t* out);
    void (*qkv_rope[2][3])(const QkvRope&);  // by type of the tensors, then of the pools: f32, bf16, int8
    void (*attention[2][3])(const Attention&);
    void (*sampling)(const Sampling&);
    void (*layer_norm_f32)(const float* x, const float* residual, const float* weight, const float* bias, float eps,
                           int64_t rows, int64_t size, float* y, float* total);
    void (*layer_norm_bf16)(const uint16_t* x, const uint16_t* residual, const uint16_t* weight, const uint16_t* bias,
                            float eps, int64_t rows, int64_t size, uint16_t* y, uint16_t* total);
    void (*rotate_qk_f32)(float* qkv, const float* cos, const float* sin, int64_t tokens, int64_t heads, int64_t size);
    void (*rotate_qk_bf16)(uint16_t* qkv, const float* cos, const float* sin, int64_t tokens, int64_t heads,
                           int64_t size);
    void (*texts_f32)(const Texts&);
    void (*texts_bf16)(const Texts&);
    void (*conv_f32)(const Conv&);
    void (*conv_bf16)(const Conv&);
    void (*ssd_f32)(const States&);
    void (*ssd_bf16)(const States&);
    void (*delta_f32)(const States&);
    void (*delta_bf16)(const States&);
    void (*lora_f32)(const Lora&);
    void (*lora_bf16)(const Lora&);
};

}  // namespace ramify
