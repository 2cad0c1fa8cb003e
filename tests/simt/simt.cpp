// The runtime behind cuda_runtime.h. A block's threads are fibres of one OS thread, which run until they meet a barrier
// or a warp-level operation, or end; blocks run one after the other.
//
// Never compiled with a sanitizer, which would watch the scheduler instead of the kernels. Where ThreadSanitizer is
// linked in, each CUDA thread is a fibre to it, too, and only barriers, the beginning and the end of a block order
// them: whatever else the schedule does, shuffles included, hides no race.
#include "cuda_runtime.h"

#include <link.h>
#include <ucontext.h>

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <map>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <utility>
#include <vector>

extern "C" {  // null unless ThreadSanitizer is there
__attribute__((weak)) void* __tsan_get_current_fiber();
__attribute__((weak)) void* __tsan_create_fiber(unsigned flags);
__attribute__((weak)) void __tsan_switch_to_fiber(void* fiber, unsigned flags);
__attribute__((weak)) void __tsan_acquire(void* address);
__attribute__((weak)) void __tsan_release(void* address);
}

dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace simt {
namespace {

constexpr unsigned kWarp = 32, kMaxThreads = 1024, kAllLanes = 0xFFFFFFFFu, kNobody = ~0u;
constexpr size_t kStack = 256 * 1024;
constexpr size_t kWithoutAsking = 48 * 1024;  // bytes of shared memory, static and dynamic together
constexpr int kUnset = 0xFF;                  // in every byte of shared memory: NaN

struct Fibre {
  void* place[5];  // where it goes on, for __builtin_longjmp
  void* tsan = nullptr;
  std::unique_ptr<char[]> stack;
};

struct Warp {
  unsigned members, ready, waiting, done;  // a bit a lane; `waiting` is for the others of the warp
  Operation operation;                     // that they wait in
  unsigned round;                          // how many operations are over
  uint64_t brought[2][kWarp];              // in this round, and in the last, which some may still have to read
};

enum class Order { fair, reverse, random };

const char* name(Operation operation) {
  const char* const names[] = {"__syncwarp", "__shfl_xor_sync", "__ballot_sync"};
  return names[static_cast<int>(operation)];
}

Fibre host, fibres[kMaxThreads];
unsigned made;  // fibres: they live on from launch to launch
Warp warps[kMaxThreads / kWarp];
unsigned warp_count, at_barrier, barriers, ended;  // of the running block
char started, finished, passed[2];                 // their addresses stand for what orders threads
const std::function<void()>* body;                 // of the running kernel
std::unique_ptr<unsigned char[]> dynamic;
std::map<const void*, size_t> asked;  // dynamic shared memory, by kernel
cudaError_t last_error = cudaSuccess;
Order order;
std::mt19937 dice;

[[noreturn]] __attribute__((format(printf, 1, 2))) void fail(const char* format, ...) {
  std::va_list arguments;
  va_start(arguments, format);
  std::fputs("simt: ", stderr);
  std::vfprintf(stderr, format, arguments);
  body ? std::fprintf(stderr, " (block %u, thread %u)\n", blockIdx.x, threadIdx.x) : std::fputs("\n", stderr);
  std::abort();
}

// ------------------------------------------------------------------------------------------------------------- fibres

void order_before(void* what) {
  if (__tsan_release) __tsan_release(what);
}
void order_after(void* what) {
  if (__tsan_acquire) __tsan_acquire(what);
}
void tell_sanitizer(const Fibre& next) {
  constexpr unsigned kNoOrder = 1;
  if (__tsan_switch_to_fiber) __tsan_switch_to_fiber(next.tsan, kNoOrder);
}

// The compiler's own setjmp and longjmp, since swapcontext makes a system call and sanitizers watch the library's.
[[gnu::noipa]] void jump(Fibre& to) {
  tell_sanitizer(to);
  __builtin_longjmp(to.place, 1);
}
[[gnu::noipa]] void change(Fibre& from, Fibre& to) {
  if (__builtin_setjmp(from.place) == 0) jump(to);
}
[[gnu::noipa]] void enter(Fibre& to, const ucontext_t& context) {
  tell_sanitizer(to);
  if (__builtin_setjmp(host.place) == 0) setcontext(&context);
}

void yield();
void end();

// A fibre is one thread of every block.
void live() {
  for (change(fibres[made], host);; yield()) {
    order_after(&started);
    (*body)();
    order_before(&finished);
    end();
  }
}

void make(Fibre& fibre) {
  if (__tsan_create_fiber) {
    host.tsan = __tsan_get_current_fiber();
    fibre.tsan = __tsan_create_fiber(0);
  }
  fibre.stack.reset(new char[kStack]);
  ucontext_t context;
  getcontext(&context);
  context.uc_stack.ss_sp = fibre.stack.get();
  context.uc_stack.ss_size = kStack;
  makecontext(&context, live, 0);
  enter(fibre, context);
}

// ----------------------------------------------------------------------------------------------------------- schedule

unsigned one_of(unsigned lanes) {
  if (order == Order::reverse) return kWarp - 1 - static_cast<unsigned>(__builtin_clz(lanes));
  const unsigned from = order == Order::random ? dice() % kWarp : 0, later = lanes >> from << from;
  return static_cast<unsigned>(__builtin_ctz(later ? later : lanes));
}

// Who runs next. Threads take turns in the fair order only; in the others, a warp runs as far as it can.
unsigned pick() {
  const unsigned here = threadIdx.x / kWarp, start = order == Order::random ? dice() % warp_count : here;
  for (unsigned i = 0; i <= warp_count; ++i) {
    unsigned warp = (start + i) % warp_count, lanes = kAllLanes;
    if (order == Order::fair && i == 0) lanes = ~1u << threadIdx.x % kWarp;  // after this thread
    if (order == Order::random && i == 0) warp = here;
    if (order == Order::reverse) warp = warp_count - 1 - i % warp_count;
    lanes &= warps[warp].ready;
    if (lanes) return warp * kWarp + one_of(lanes);
  }
  return kNobody;
}

void yield() {
  const unsigned self = threadIdx.x, next = pick();
  if (ended == blockDim.x) return change(fibres[self], host);
  if (next == kNobody) fail("deadlock: %u threads wait in __syncthreads, the others for their warps", at_barrier);
  threadIdx.x = next;
  if (next != self) change(fibres[self], fibres[next]);
}

void end() {
  Warp& warp = warps[threadIdx.x / kWarp];
  if (warp.waiting) fail("a thread ended while others of its warp wait in %s", name(warp.operation));
  if (at_barrier) fail("a thread ended while others wait in __syncthreads");
  warp.done |= 1u << threadIdx.x % kWarp;
  warp.ready &= ~warp.done;
  ++ended;
}

void run_block(unsigned index, unsigned threads) {
  blockIdx.x = index;
  at_barrier = ended = 0;
  for (unsigned w = 0; w < warp_count; ++w) {
    const unsigned members = threads - w * kWarp < kWarp ? (1u << threads % kWarp) - 1 : kAllLanes;
    warps[w] = {};
    warps[w].members = warps[w].ready = members;
  }
  order_before(&started);
  threadIdx.x = threads - 1;  // the last turn was its
  threadIdx.x = pick();
  change(host, fibres[threadIdx.x]);
  order_after(&finished);
}

// ------------------------------------------------------------------------------------------------------ shared memory

size_t most_shared() {
  const char* given = std::getenv("SIMT_SHARED");
  return given ? std::strtoul(given, nullptr, 10) : 227 * 1024;
}

struct Memory {
  char* at;
  size_t size;
};
thread_local char a_static;

// The __shared__ arrays of all kernels: the thread-locals of the program or library that this file is part of.
Memory statics() {
  Memory found{&a_static, 1};
  dl_iterate_phdr([](dl_phdr_info* object, size_t, void* result) {
    char* const at = static_cast<char*>(object->dlpi_tls_data);
    for (int i = 0; i < object->dlpi_phnum; ++i) {
      const size_t size = object->dlpi_phdr[i].p_type == PT_TLS ? object->dlpi_phdr[i].p_memsz : 0;
      if (at && &a_static >= at && &a_static < at + size) *static_cast<Memory*>(result) = {at, size};
    }
    return 0;
  }, &found);
  return found;
}

}  // namespace

unsigned char* dynamic_shared() { return dynamic.get(); }

void launch(const void* kernel, unsigned blocks, unsigned threads, size_t shared, const std::function<void()>& run) {
  const Memory fixed = statics();
  const size_t left = fixed.size < kWithoutAsking ? kWithoutAsking - fixed.size : 0;
  const size_t most = std::max(asked.count(kernel) ? asked[kernel] : 0, left);
  if (blocks == 0 || blocks > 0x7FFFFFFFu) fail("launch of %u blocks", blocks);
  if (threads == 0 || threads > kMaxThreads) fail("launch of %u threads a block", threads);
  if (shared > most) fail("launch with %zu bytes of dynamic shared memory, %zu allowed", shared, most);

  const char* given = std::getenv("SIMT_ORDER");
  const std::string wish = given ? given : "fair";
  order = wish == "fair" ? Order::fair : wish == "reverse" ? Order::reverse : Order::random;
  dice.seed(std::strtoul(wish.c_str(), nullptr, 10));
  std::vector<unsigned> turns(blocks);
  std::iota(turns.begin(), turns.end(), 0u);
  if (order == Order::reverse) std::reverse(turns.begin(), turns.end());
  if (order == Order::random) std::shuffle(turns.begin(), turns.end(), dice);

  for (; made < threads; ++made) make(fibres[made]);
  body = &run;
  gridDim.x = blocks;
  blockDim.x = threads;
  warp_count = (threads + kWarp - 1) / kWarp;
  dynamic.reset(new unsigned char[shared]);  // not a byte more, for AddressSanitizer
  for (unsigned index : turns) {
    std::memset(dynamic.get(), kUnset, shared);
    std::memset(fixed.at, kUnset, fixed.size);
    run_block(index, threads);
  }
  dynamic.reset();
  body = nullptr;
}

const uint64_t* meet(Operation operation, unsigned mask, uint64_t value) {
  Warp& warp = warps[threadIdx.x / kWarp];
  const unsigned lane = threadIdx.x % kWarp;
  if (mask != kAllLanes || warp.members != kAllLanes) fail("%s of a part of a warp", name(operation));
  if (warp.done) fail("%s after threads of the warp have ended", name(operation));
  if (warp.waiting && warp.operation != operation)
    fail("%s while others of the warp wait in %s", name(operation), name(warp.operation));
  uint64_t* const brought = warp.brought[warp.round % 2];
  brought[lane] = value;
  warp.operation = operation;
  warp.waiting |= 1u << lane;
  warp.ready &= ~warp.waiting;
  if (warp.waiting == kAllLanes) {
    warp.ready = kAllLanes;
    warp.waiting = 0;
    ++warp.round;
  }
  yield();
  return brought;
}

}  // namespace simt

using namespace simt;

void __syncwarp(unsigned mask) {
  Warp& warp = warps[threadIdx.x / kWarp];
  void* const round = warp.brought[warp.round % 2];
  order_before(round);
  meet(Operation::sync, mask, 0);
  order_after(round);
}

void __syncthreads() {
  if (ended) fail("__syncthreads after threads of the block have ended");
  void* const round = &passed[barriers % 2];
  order_before(round);
  Warp& warp = warps[threadIdx.x / kWarp];
  warp.ready &= ~(1u << threadIdx.x % kWarp);
  if (++at_barrier == blockDim.x) {
    for (unsigned w = 0; w < warp_count; ++w) warps[w].ready = warps[w].members;
    at_barrier = 0;
    ++barriers;
  }
  yield();
  order_after(round);
}

cudaError_t cudaGetLastError() { return std::exchange(last_error, cudaSuccess); }

cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr, int) {
  *value = static_cast<int>(most_shared());
  return cudaSuccess;
}

cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute, int value) {
  const bool fits = value >= 0 && static_cast<size_t>(value) + statics().size <= most_shared();
  if (!fits) return last_error = cudaErrorInvalidValue;
  asked[kernel] = static_cast<size_t>(value);
  return cudaSuccess;
}
