// The runtime behind cuda_runtime.h. The threads of a block, or of all blocks of a cluster, are fibres of one OS thread, which
// run until they meet a barrier or a warp-level operation, or end; clusters run one after the other.
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
#include <deque>
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

extern "C" {  // where each kernel's padding begins, as its __launch_bounds__ ask for
extern const uintptr_t __start___patchable_function_entries[] __attribute__((weak, visibility("hidden")));
extern const uintptr_t __stop___patchable_function_entries[] __attribute__((weak, visibility("hidden")));
}

dim3 threadIdx, blockIdx, blockDim, gridDim;
cudaStream_t simt_stream = nullptr;

namespace simt {
namespace {

constexpr unsigned kWarp = 32, kMaxThreads = 1024, kAllLanes = 0xFFFFFFFFu, kNobody = ~0u, kPortable = 8;
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

struct Barrier {
  unsigned waiting, passed;
  char order[2];  // their addresses stand for what orders the threads: in this round, and in the last
};

struct Block {
  Barrier barrier;
  unsigned ended;
  std::unique_ptr<unsigned char[]> dynamic;
};

struct Device {
  size_t shared;      // bytes that a block can have if it asks for them
  unsigned clusters;  // the blocks of the largest cluster
};
const std::map<std::string, Device> kDevices = {
    {"sm_90", {227 * 1024, 16}}, {"sm_80", {163 * 1024, 1}}, {"tiny", {24 * 1024, 2}}};

enum class Order { fair, reverse, random };

const char* name(Operation operation) {
  const char* const names[] = {"__syncwarp", "__shfl_sync", "__ballot_sync"};
  return names[static_cast<int>(operation)];
}

Fibre host;
std::deque<Fibre> fibres;  // they live on from launch to launch
std::vector<Warp> warps;   // of the running cluster: one block's after the other's, and so the fibres
std::vector<Block> blocks;
unsigned self, slots, first_block;  // the running fibre; how many a block has, of whole warps; the cluster's first block
Barrier cluster;
char started, finished;             // as in Barrier
const std::function<void()>* body;  // of the running kernel
size_t dynamic_size;
std::map<const void*, size_t> asked;       // dynamic shared memory, by kernel
std::map<const void*, bool> non_portable;  // whether larger clusters are allowed
cudaError_t last_error = cudaSuccess;
const void* unasked;  // a kernel launched since cudaGetLastError
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
  for (change(fibres.back(), host);; yield()) {
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
  const unsigned count = static_cast<unsigned>(warps.size());
  const unsigned here = self / kWarp, start = order == Order::random ? dice() % count : here;
  for (unsigned i = 0; i <= count; ++i) {
    unsigned warp = (start + i) % count, lanes = kAllLanes;
    if (order == Order::fair && i == 0) lanes = ~1u << self % kWarp;  // after this thread
    if (order == Order::random && i == 0) warp = here;
    if (order == Order::reverse) warp = count - 1 - i % count;
    lanes &= warps[warp].ready;
    if (lanes) return warp * kWarp + one_of(lanes);
  }
  return kNobody;
}

void become(unsigned fibre) {
  self = fibre;
  threadIdx.x = fibre % slots;
  blockIdx.x = first_block + fibre / slots;
}

void yield() {
  const unsigned last = self, next = pick();
  if (next != kNobody) {
    become(next);
    if (next != last) change(fibres[last], fibres[next]);
    return;
  }
  unsigned waiting = cluster.waiting, ended = 0;
  for (const Block& block : blocks) waiting += block.barrier.waiting, ended += block.ended;
  if (ended == blocks.size() * blockDim.x) return change(fibres[last], host);
  fail("deadlock: %u threads wait in __syncthreads, the others for their warps", waiting);
}

void end() {
  Warp& warp = warps[self / kWarp];
  if (warp.waiting) fail("a thread ended while others of its warp wait in %s", name(warp.operation));
  if (blocks[self / slots].barrier.waiting) fail("a thread ended while others wait in __syncthreads");
  if (cluster.waiting) fail("a thread ended while others of its cluster wait for it");
  warp.done |= 1u << self % kWarp;
  warp.ready &= ~warp.done;
  ++blocks[self / slots].ended;
}

// For `threads` of them, all of which are among the fibres of `count` warps from the first on.
void wait(Barrier& barrier, unsigned threads, Warp* first, size_t count) {
  void* const round = &barrier.order[barrier.passed % 2];
  order_before(round);
  warps[self / kWarp].ready &= ~(1u << self % kWarp);
  if (++barrier.waiting == threads) {
    for (Warp* warp = first; warp < first + count; ++warp) warp->ready = warp->members;
    barrier.waiting = 0;
    ++barrier.passed;
  }
  yield();
  order_after(round);
}

void run_cluster(unsigned first, unsigned threads) {
  for (size_t w = 0; w < warps.size(); ++w) {
    const unsigned from = static_cast<unsigned>(w) * kWarp % slots;
    const unsigned members = threads - from < kWarp ? (1u << threads % kWarp) - 1 : kAllLanes;
    warps[w] = {};
    warps[w].members = warps[w].ready = members;
  }
  for (Block& block : blocks) {
    block.barrier = {};
    block.ended = 0;
    std::memset(block.dynamic.get(), kUnset, dynamic_size);
  }
  cluster = {};
  first_block = first;
  order_before(&started);
  self = static_cast<unsigned>(warps.size()) * kWarp - 1;  // the last turn was its
  become(pick());
  change(host, fibres[self]);
  order_after(&finished);
}

// ------------------------------------------------------------------------------------------------------ shared memory

const Device& device() {
  const char* given = std::getenv("SIMT_DEVICE");
  return kDevices.at(given ? given : "sm_90");
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

// As many bytes of NOPs end where a kernel begins as it may have threads a block.
unsigned launch_bounds(const void* kernel) {
  const auto at = reinterpret_cast<uintptr_t>(kernel);
  uintptr_t padding = at - kMaxThreads;
  for (auto p = __start___patchable_function_entries; p != __stop___patchable_function_entries; ++p)
    if (*p < at && *p > padding) padding = *p;
  const auto nop = [](unsigned char byte) { return byte == 0x90; };
  const auto* const from = reinterpret_cast<const unsigned char*>(padding);
  return padding != at - kMaxThreads && std::all_of(from, from + (at - padding), nop) ? at - padding : kMaxThreads;
}

unsigned cluster_size(const cudaLaunchConfig_t& config) {
  return config.numAttrs ? config.attrs[0].val.clusterDim.x : 1;
}

// Checked in one place, as nothing follows it.
const struct AtTheEnd {
  ~AtTheEnd() {
    if (unasked) fail("the program ended before cudaGetLastError was asked about the last launch");
  }
} at_the_end;

}  // namespace

unsigned char* dynamic_shared() { return blocks[self / slots].dynamic.get(); }
unsigned cluster_rank() { return self / slots; }
unsigned cluster_blocks() { return static_cast<unsigned>(blocks.size()); }

void* shared_of(void* at, unsigned rank) {
  const size_t offset = static_cast<unsigned char*>(at) - dynamic_shared();
  if (rank >= blocks.size() || offset >= dynamic_size) fail("no such shared memory in the cluster");
  if (rank != cluster_rank() && cluster.passed == 0)
    fail("another block's shared memory before all blocks of the cluster run");
  if (blocks[rank].ended) fail("another block's shared memory after that has ended");
  return blocks[rank].dynamic.get() + offset;
}

void cluster_sync() {
  for (const Block& block : blocks)
    if (block.ended) fail("a barrier of the cluster after threads of it have ended");
  wait(cluster, blockDim.x * cluster_blocks(), warps.data(), warps.size());
}

cudaError_t launch(const void* kernel, const cudaLaunchConfig_t& config, const std::function<void()>& run) {
  const unsigned grid = config.gridDim.x, threads = config.blockDim.x, together = cluster_size(config);
  const Memory fixed = statics();
  const size_t without_asking = std::min(kWithoutAsking, device().shared);
  const size_t left = fixed.size < without_asking ? without_asking - fixed.size : 0;
  const size_t most = std::max(asked.count(kernel) ? asked[kernel] : 0, left);
  if (unasked) fail("a launch before cudaGetLastError was asked about the last");
  if (config.stream != simt_stream) fail("launch on another stream");
  if (grid == 0 || grid > 0x7FFFFFFFu) fail("launch of %u blocks", grid);
  if (threads == 0 || threads > kMaxThreads) fail("launch of %u threads a block", threads);
  if (threads > launch_bounds(kernel))
    fail("launch of %u threads a block, beyond the launch bounds of %u", threads, launch_bounds(kernel));
  if (config.dynamicSmemBytes > most)
    fail("launch with %zu bytes of dynamic shared memory, %zu allowed", config.dynamicSmemBytes, most);
  if (together == 0 || together > (non_portable[kernel] ? 2 * kPortable : kPortable) || together > device().clusters)
    fail("launch of clusters of %u blocks", together);
  if (grid % together) fail("launch of %u blocks in clusters of %u", grid, together);
  unasked = kernel;
  if (std::getenv("SIMT_FAIL")) return last_error = cudaErrorLaunchFailure;

  const char* given = std::getenv("SIMT_ORDER");
  const std::string wish = given ? given : "fair";
  order = wish == "fair" ? Order::fair : wish == "reverse" ? Order::reverse : Order::random;
  dice.seed(std::strtoul(wish.c_str(), nullptr, 10));
  const char* const last = std::getenv("SIMT_LAST");
  const unsigned clusters = grid / together;
  std::vector<unsigned> turns(last ? std::min<size_t>(clusters, std::strtoul(last, nullptr, 10)) : clusters);
  std::iota(turns.begin(), turns.end(), clusters - static_cast<unsigned>(turns.size()));
  if (order == Order::reverse) std::reverse(turns.begin(), turns.end());
  if (order == Order::random) std::shuffle(turns.begin(), turns.end(), dice);

  slots = (threads + kWarp - 1) / kWarp * kWarp;
  while (fibres.size() < slots * together) make(fibres.emplace_back());
  body = &run;
  gridDim.x = grid;
  blockDim.x = threads;
  warps.resize(slots / kWarp * together);
  blocks.resize(together);
  dynamic_size = config.dynamicSmemBytes;
  // Not a byte more, for AddressSanitizer.
  for (Block& block : blocks) block.dynamic.reset(new unsigned char[dynamic_size]);
  for (unsigned turn : turns) {
    std::memset(fixed.at, kUnset, fixed.size);
    run_cluster(turn * together, threads);
    const auto written = [](char byte) { return static_cast<unsigned char>(byte) != kUnset; };
    if (together > 1 && std::any_of(fixed.at, fixed.at + fixed.size, written))
      fail("a __shared__ array in a cluster, which is not modelled");
  }
  blocks.clear();
  body = nullptr;
  return cudaSuccess;
}

cudaError_t active_clusters(int* clusters, const void* kernel, const cudaLaunchConfig_t& config) {
  const unsigned together = cluster_size(config);
  const bool fits = config.dynamicSmemBytes <= device().shared;
  *clusters = fits && together <= device().clusters && together <= (non_portable[kernel] ? 2 * kPortable : kPortable);
  return cudaSuccess;
}

const uint64_t* meet(Operation operation, unsigned mask, uint64_t value) {
  Warp& warp = warps[self / kWarp];
  const unsigned lane = self % kWarp;
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
  Warp& warp = warps[self / kWarp];
  void* const round = warp.brought[warp.round % 2];
  order_before(round);
  meet(Operation::sync, mask, 0);
  order_after(round);
}

void __syncthreads() {
  Block& block = blocks[self / slots];
  if (block.ended) fail("__syncthreads after threads of the block have ended");
  wait(block.barrier, blockDim.x, &warps[self / slots * (slots / kWarp)], slots / kWarp);
}

cudaError_t cudaGetLastError() {
  unasked = nullptr;
  return std::exchange(last_error, cudaSuccess);
}

cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  const bool shared = attribute == cudaDevAttrMaxSharedMemoryPerBlockOptin;
  *value = shared ? static_cast<int>(device().shared) : device().clusters > 1;
  return cudaSuccess;
}

cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute attribute, int value) {
  if (attribute == cudaFuncAttributeNonPortableClusterSizeAllowed) {
    if (device().clusters <= kPortable) return last_error = cudaErrorInvalidValue;
    non_portable[kernel] = value != 0;
    return cudaSuccess;
  }
  const bool fits = value >= 0 && static_cast<size_t>(value) + statics().size <= device().shared;
  if (!fits) return last_error = cudaErrorInvalidValue;
  asked[kernel] = static_cast<size_t>(value);
  return cudaSuccess;
}
