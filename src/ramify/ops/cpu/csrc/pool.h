// A fixed set of threads that share loops. They sleep while there is nothing to do.
#pragma once

#include <cstddef>
#include <cstdint>

namespace ramify {

using Body = void (*)(void* context, int64_t index);

// Calls body(context, i) for every i in [0, count), on the caller and on all threads of the pool. Indices are handed out
// one by one. One loop at a time; loops do not nest.
void parallel(int64_t count, Body body, void* context);

template <class F>
void parallel(int64_t count, F&& f) {
    parallel(count, [](void* context, int64_t index) { (*static_cast<F*>(context))(index); }, &f);
}

// How many threads there are, the caller included. Called before the first loop, and by one thread.
void set_threads(int count);
int threads();

// Memory of the calling thread that lasts until its next call with the same place; aligned to 64 bytes.
void* scratch(int place, size_t bytes);

}  // namespace ramify
