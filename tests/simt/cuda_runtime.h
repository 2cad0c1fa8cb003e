// CUDA's execution model on the CPU: as much of it as csrc/cuda/kernels.cu uses, which g++ compiles unmodified against
// this header. simt.cpp has the fibres, barriers and schedules behind it.
//
// SIMT_ORDER picks the order in which blocks and threads run: "fair" (default), "reverse", or a number, the seed of
// a random order. SIMT_SHARED is the shared memory, in bytes, that a block can have at most if it asks for it.
//
// Aborts with a message where CUDA would be in undefined behaviour or fail: threads that end while others wait for
// them, warps whose threads meet in different operations, deadlocks, launches beyond the limits. Stricter than CUDA in
// that warp-level operations take whole warps, and barriers whole blocks. Not modelled: timing, and blocks that run at
// the same time.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>

#define __device__
#define __global__
#define __align__(bytes) __attribute__((aligned(bytes)))
#define __launch_bounds__(threads)
// Blocks run one after the other. As thread-locals, because then the linker lays them side by side, to be refilled.
#define __shared__ static thread_local

using cudaStream_t = void*;
using cudaError_t = int;
constexpr cudaError_t cudaSuccess = 0, cudaErrorInvalidValue = 1, cudaErrorInvalidConfiguration = 9;
enum cudaDeviceAttr { cudaDevAttrMaxSharedMemoryPerBlockOptin = 97 };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };
cudaError_t cudaGetLastError();
cudaError_t cudaGetDevice(int* device);
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device);
cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute attribute, int value);

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
};
extern dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace simt {

void launch(const void* kernel, unsigned blocks, unsigned threads, size_t shared, const std::function<void()>& body);
unsigned char* dynamic_shared();

// Waits until all threads of the warp are in this operation; returns what each of the 32 brought.
enum class Operation { sync, shuffle, ballot };
const uint64_t* meet(Operation operation, unsigned mask, uint64_t value);

template <class... Parameters, class... Args>
void launch(void (*kernel)(Parameters...), unsigned blocks, unsigned threads, size_t shared, cudaStream_t,
            const Args&... args) {
  launch(reinterpret_cast<const void*>(kernel), blocks, threads, shared, [&] { kernel(args...); });
}

}  // namespace simt

#define FASTADV_LAUNCH(kernel, blocks, threads, shared, ...) simt::launch(kernel, blocks, threads, shared, __VA_ARGS__)
#define FASTADV_DYNAMIC_SHARED(name) unsigned char* const name = simt::dynamic_shared()

struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
inline void __stwb(uint4* to, uint4 value) { *to = value; }

void __syncthreads();
void __syncwarp(unsigned mask = 0xFFFFFFFFu);

template <class V>
V __shfl_xor_sync(unsigned mask, V value, int lanes) {
  static_assert(sizeof(V) <= sizeof(uint64_t));
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof value);
  const uint64_t* all = simt::meet(simt::Operation::shuffle, mask, bits);
  std::memcpy(&value, &all[(threadIdx.x ^ static_cast<unsigned>(lanes)) % 32], sizeof value);
  return value;
}

inline unsigned __ballot_sync(unsigned mask, bool vote) {
  const uint64_t* all = simt::meet(simt::Operation::ballot, mask, vote);
  unsigned votes = 0;
  for (unsigned lane = 0; lane < 32; ++lane) votes |= static_cast<unsigned>(all[lane]) << lane;
  return votes;
}

inline int __popc(unsigned bits) { return __builtin_popcount(bits); }

inline int atomicAdd(int* at, int value) { return __atomic_fetch_add(at, value, __ATOMIC_RELAXED); }
inline unsigned atomicAdd(unsigned* at, unsigned value) { return __atomic_fetch_add(at, value, __ATOMIC_RELAXED); }
