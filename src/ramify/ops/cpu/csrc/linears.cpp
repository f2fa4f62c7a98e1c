// What is done with packed weights, compiled once for each instruction set: RAMIFY_ISA is its name.
#include <algorithm>
#include <cstdlib>

#include "api.h"
#include "integers.h"
#include "pool.h"
#include "simd.h"

namespace ramify {
namespace RAMIFY_ISA {
namespace {
#include "elements.inc"
#include "linear.inc"
#include "grouped.inc"
#include "int8.inc"
#include "amx.inc"
#include "int4.inc"
}  // namespace

extern const Linears linears;
const Linears linears = {
    pack<float>,
    pack<uint16_t>,
    linear<float>,
    linear<uint16_t>,
    embed<float>,
    embed<uint16_t>,
    grouped<float>,
    grouped<uint16_t>,
    pack_int8<float>,
    pack_int8<uint16_t>,
    linear_int8<float>,
    linear_int8<uint16_t>,
    embed_int8,
    pack_int4<float>,
    pack_int4<uint16_t>,
    linear_int4<float>,
    linear_int4<uint16_t>,
};

}  // namespace RAMIFY_ISA
}  // namespace ramify
