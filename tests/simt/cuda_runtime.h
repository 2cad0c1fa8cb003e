// CUDA's execution model on the CPU, enough to run csrc/cuda/kernels.cu, unmodified, as compiled by g++.
//
// A block's threads are fibres of one OS thread; they run until they meet a barrier or end. Blocks run one after the
// other. SIMT_ORDER picks who runs next: "fair" (default), "reverse", or a number, the seed of a random order. A warp is 32
// threads; a shuffle waits for all of them. Threads that end while others wait at a barrier abort the program, as does a
// launch beyond CUDA's limits. Not modelled: memory order, timing, atomics between blocks.
#pragma once

#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <vector>

#define __device__
#define __global__
#define __launch_bounds__(threads)
#define __shared__ static  // blocks run in turn

using cudaStream_t = void*;
using cudaError_t = int;
constexpr int cudaErrorInvalidConfiguration = 9;
inline int cudaGetLastError() { return 0; }

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
};
inline dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace simt {

[[noreturn]] inline void fail(const char* why) {
  std::fprintf(stderr, "simt: %s (block %u, thread %u)\n", why, blockIdx.x, threadIdx.x);
  std::abort();
}

enum class State { ready, at_block, at_warp, done };

struct Thread {
  ucontext_t context;
  State state;
  double slot;  // what a shuffle shows to the warp
};

inline constexpr size_t kStack = 64 * 1024;
inline std::vector<std::unique_ptr<char[]>> stacks;
inline std::vector<Thread> threads;
inline ucontext_t scheduler;
inline const std::function<void()>* body;

inline void entry() {
  (*body)();
  threads[threadIdx.x].state = State::done;
  swapcontext(&threads[threadIdx.x].context, &scheduler);
}

inline void wait(State at) {
  const unsigned self = threadIdx.x;
  threads[self].state = at;
  swapcontext(&threads[self].context, &scheduler);
}

// Threads first..last go on once all of them that are not done wait at `at`; some done while others wait is an error.
inline void release(unsigned first, unsigned last, State at) {
  unsigned waiting = 0, done = 0;
  for (unsigned t = first; t < last; ++t) {
    waiting += threads[t].state == at;
    done += threads[t].state == State::done;
  }
  if (waiting && done) fail("a thread ended while others wait at a barrier");
  if (waiting == last - first)
    for (unsigned t = first; t < last; ++t) threads[t].state = State::ready;
}

inline void run_block(unsigned count, std::mt19937& random, const char* order) {
  for (unsigned t = 0; t < count; ++t) {
    threads[t].state = State::ready;
    getcontext(&threads[t].context);
    threads[t].context.uc_stack.ss_sp = stacks[t].get();
    threads[t].context.uc_stack.ss_size = kStack;
    threads[t].context.uc_link = nullptr;
    makecontext(&threads[t].context, entry, 0);
  }
  const bool reverse = std::strcmp(order, "reverse") == 0, fair = std::strcmp(order, "fair") == 0;
  for (;;) {
    std::vector<unsigned> ready;
    unsigned done = 0;
    for (unsigned t = 0; t < count; ++t) {
      if (threads[t].state == State::ready) ready.push_back(t);
      done += threads[t].state == State::done;
    }
    if (done == count) return;
    if (ready.empty()) fail("deadlock: every thread waits");
    if (!reverse && !fair) std::shuffle(ready.begin(), ready.end(), random);
    if (reverse) std::reverse(ready.begin(), ready.end());
    for (unsigned t : ready) {
      threadIdx.x = t;
      swapcontext(&scheduler, &threads[t].context);
      release(t / 32 * 32, t / 32 * 32 + 32 < count ? t / 32 * 32 + 32 : count, State::at_warp);
    }
    release(0, count, State::at_block);
  }
}

inline void launch(unsigned blocks, unsigned count, const std::function<void()>& kernel) {
  if (blocks == 0 || blocks > 0x7FFFFFFFu || count == 0 || count > 1024) fail("launch beyond CUDA's limits");
  const char* order = std::getenv("SIMT_ORDER") ? std::getenv("SIMT_ORDER") : "fair";
  std::mt19937 random(std::strtoul(order, nullptr, 10));
  while (stacks.size() < count) stacks.emplace_back(new char[kStack]);
  threads.resize(count);
  body = &kernel;
  blockDim.x = count;
  gridDim.x = blocks;
  for (blockIdx.x = 0; blockIdx.x < blocks; ++blockIdx.x) run_block(count, random, order);
}

}  // namespace simt

inline void __syncthreads() { simt::wait(simt::State::at_block); }

inline double __shfl_xor_sync(unsigned mask, double value, int lanes) {
  if (mask != 0xFFFFFFFFu) simt::fail("a shuffle of part of a warp");
  const unsigned self = threadIdx.x;
  simt::threads[self].slot = value;
  simt::wait(simt::State::at_warp);
  const double other = simt::threads[self ^ static_cast<unsigned>(lanes)].slot;
  simt::wait(simt::State::at_warp);  // before the slot is written again
  return other;
}

#define FASTADV_LAUNCH(kernel, blocks, threads, stream, ...) \
  ((void)(stream), simt::launch(blocks, threads, [&] { kernel(__VA_ARGS__); }))
