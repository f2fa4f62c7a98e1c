// All kernels but those over packed weights, compiled once for each instruction set: RAMIFY_ISA is its name.
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <type_traits>

#include "api.h"
#include "integers.h"
#include "pool.h"
#include "simd.h"

namespace ramify {
namespace RAMIFY_ISA {
namespace {
#include "elements.inc"
#include "combine.inc"
#include "rows.inc"
#include "attention.inc"
#include "sample.inc"
#include "encode.inc"
#include "state.inc"
#include "lora.inc"
}  // namespace

extern const Others others;
const Others others = {
    norm<float>,
    norm<uint16_t>,
    activation<float>,
    activation<uint16_t>,
    softcap,
    combine<float>,
    combine<uint16_t>,
    {{qkv_rope<float, float>, qkv_rope<float, uint16_t>, qkv_rope<float, int8_t>},
     {qkv_rope<uint16_t, float>, qkv_rope<uint16_t, uint16_t>, qkv_rope<uint16_t, int8_t>}},
    {{attention<float, float>, attention<float, uint16_t>, attention<float, int8_t>},
     {attention<uint16_t, float>, attention<uint16_t, uint16_t>, attention<uint16_t, int8_t>}},
    sampling,
    layer_norm<float>,
    layer_norm<uint16_t>,
    rotate_qk<float>,
    rotate_qk<uint16_t>,
    attend_texts<float>,
    attend_texts<uint16_t>,
    conv<float>,
    conv<uint16_t>,
    ssd<float>,
    ssd<uint16_t>,
    delta<float>,
    delta<uint16_t>,
    lora<float>,
    lora<uint16_t>,
};

}  // namespace RAMIFY_ISA
}  // namespace ramify
