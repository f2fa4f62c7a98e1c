// Calls of the C interface that were written down, made again by one call: what a model does in a step, without the
// Python between its kernels.
#pragma once

#include <cstdint>
#include <type_traits>
#include <utility>

namespace ramify {

union Value {
    int64_t whole;
    double real;
    void* pointer;
};

constexpr int MOST_VALUES = 31;

using Unpacked = void (*)(const Value*);

struct Call {
    Unpacked function;
    Value values[MOST_VALUES];
};

template <class T>
T as(const Value& value) {
    if constexpr (std::is_pointer_v<T>)
        return (T)value.pointer;
    else if constexpr (std::is_floating_point_v<T>)
        return T(value.real);
    else
        return T(value.whole);
}

template <auto F>
struct Unpack;

template <class... A, void (*F)(A...)>
struct Unpack<F> {
    static_assert(sizeof...(A) <= MOST_VALUES);
    template <size_t... I>
    static void spread(const Value* values, std::index_sequence<I...>) {
        F(as<A>(values[I])...);
    }
    static void call(const Value* values) { spread(values, std::index_sequence_for<A...>{}); }
};

struct Replayable {
    const char* name;
    Unpacked function;
};

}  // namespace ramify
