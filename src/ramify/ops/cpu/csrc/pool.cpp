#include "pool.h"

#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <mutex>
#include <new>
#include <thread>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace ramify {
namespace {

constexpr int SPINS = 2000;  // looks at the next loop before going to sleep, some tens of microseconds

void pause() {
#if defined(__x86_64__)
    _mm_pause();
#endif
}

class Pool {
  public:
    void resize(int count) {
        stop();
        ending_ = false;
        for (int i = 1; i < count; i++) workers_.emplace_back([this] { work(); });
    }

    int size() const { return int(workers_.size()) + 1; }

    void run(int64_t count, Body body, void* context) {
        if (workers_.empty() || count <= 1) {
            for (int64_t i = 0; i < count; i++) body(context, i);
            return;
        }
        body_ = body;
        context_ = context;
        count_ = count;
        next_.store(0, std::memory_order_relaxed);
        busy_.store(int(workers_.size()), std::memory_order_relaxed);
        {
            std::lock_guard<std::mutex> lock(mutex_);
            round_.fetch_add(1, std::memory_order_release);
        }
        wake_.notify_all();
        drain();
        while (busy_.load(std::memory_order_acquire)) pause();
    }

    ~Pool() { stop(); }

  private:
    void drain() {
        for (;;) {
            int64_t i = next_.fetch_add(1, std::memory_order_relaxed);
            if (i >= count_) return;
            body_(context_, i);
        }
    }

    void work() {
        uint64_t seen = 0;
        for (;;) {
            for (int i = 0; i < SPINS && round_.load(std::memory_order_acquire) == seen; i++) pause();
            if (round_.load(std::memory_order_acquire) == seen) {
                std::unique_lock<std::mutex> lock(mutex_);
                wake_.wait(lock, [&] { return round_.load(std::memory_order_acquire) != seen; });
            }
            seen = round_.load(std::memory_order_acquire);
            if (ending_) return;
            drain();
            busy_.fetch_sub(1, std::memory_order_release);
        }
    }

    void stop() {
        {
            std::lock_guard<std::mutex> lock(mutex_);
            ending_ = true;
            round_.fetch_add(1, std::memory_order_release);
        }
        wake_.notify_all();
        for (auto& worker : workers_) worker.join();
        workers_.clear();
        round_.store(0);
    }

    std::vector<std::thread> workers_;
    std::mutex mutex_;
    std::condition_variable wake_;
    std::atomic<uint64_t> round_{0};
    std::atomic<int64_t> next_{0};
    std::atomic<int> busy_{0};
    bool ending_ = false;
    Body body_ = nullptr;
    void* context_ = nullptr;
    int64_t count_ = 0;
};

Pool* pool() {
    static Pool* made = new Pool;  // never destroyed: threads of it may still sleep when the process ends
    return made;
}

struct Scratch {
    void* memory = nullptr;
    size_t size = 0;
    ~Scratch() { std::free(memory); }
};

}  // namespace

void parallel(int64_t count, Body body, void* context) { pool()->run(count, body, context); }
void set_threads(int count) { pool()->resize(count < 1 ? 1 : count); }
int threads() { return pool()->size(); }

void* scratch(int place, size_t bytes) {
    static thread_local Scratch places[8];
    Scratch& one = places[place];
    if (one.size < bytes) {
        std::free(one.memory);
        one.size = (bytes + bytes / 4 + 63) / 64 * 64;
        one.memory = std::aligned_alloc(64, one.size);
        if (!one.memory) throw std::bad_alloc();
    }
    return one.memory;
}

}  // namespace ramify
