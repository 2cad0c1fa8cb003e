// CUDA's execution model on the CPU: as much of it as csrc/cuda/kernels.cu uses, which g++ compiles unmodified against
// this header. simt.cpp has the fibres, barriers and schedules behind it.
//
// SIMT_ORDER picks the order in which blocks and threads run: "fair" (default), "reverse", or a number, the seed of
// a random order. SIMT_DEVICE picks the device: "sm_90" (default) or "sm_80", with their shared memory and clusters, or
// "tiny", which has little of both. With SIMT_LAST, only so many blocks of a launch run, the last ones. With SIMT_FAIL,
// every launch fails.
//
// Aborts with a message where CUDA would be in undefined behaviour or fail: threads that end while others wait for
// them, warps whose threads meet in different operations, deadlocks, launches beyond the limits or the kernel's
// __launch_bounds__, on another stream than `simt_stream`, or about which cudaGetLastError is not asked before the
// next; another block's memory before all blocks of the cluster run, or when it has ended. Stricter than CUDA in
// that warp-level operations take whole warps, barriers whole blocks and clusters, and kernels launched as clusters
// have no __shared__ arrays but the dynamic one. Not modelled: timing, and clusters that run at the same time.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>

#define __device__
#define __global__
#define __align__(bytes) __attribute__((aligned(bytes)))
// As many bytes of padding before the kernel, where simt.cpp counts them.
#define __launch_bounds__(threads, ...) __attribute__((patchable_function_entry((threads) + 0, (threads) + 0)))
// Blocks run one after the other. As thread-locals, because then the linker lays them side by side, to be refilled.
#define __shared__ static thread_local

using cudaStream_t = void*;
using cudaError_t = int;
constexpr cudaError_t cudaSuccess = 0, cudaErrorInvalidValue = 1, cudaErrorInvalidConfiguration = 9,
                      cudaErrorLaunchFailure = 719;
enum cudaDeviceAttr { cudaDevAttrMaxSharedMemoryPerBlockOptin = 97, cudaDevAttrClusterLaunch = 120 };
enum cudaFuncAttribute {
  cudaFuncAttributeMaxDynamicSharedMemorySize = 8,
  cudaFuncAttributeNonPortableClusterSizeAllowed = 14
};
cudaError_t cudaGetLastError();
cudaError_t cudaGetDevice(int* device);
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device);
cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute attribute, int value);

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
};
extern dim3 threadIdx, blockIdx, blockDim, gridDim;

enum cudaLaunchAttributeID { cudaLaunchAttributeClusterDimension = 4 };
struct cudaLaunchAttribute {
  cudaLaunchAttributeID id;
  struct {
    dim3 clusterDim;
  } val;
};
struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes;
  cudaStream_t stream;
  cudaLaunchAttribute* attrs;
  unsigned numAttrs;
};

extern cudaStream_t simt_stream;  // which all launches are to go to

namespace simt {

cudaError_t launch(const void* kernel, const cudaLaunchConfig_t& config, const std::function<void()>& body);
cudaError_t active_clusters(int* clusters, const void* kernel, const cudaLaunchConfig_t& config);
unsigned char* dynamic_shared();

// Of the cluster to which the block belongs.
void cluster_sync();
unsigned cluster_rank();
unsigned cluster_blocks();
void* shared_of(void* at, unsigned rank);

// Waits until all threads of the warp are in this operation; returns what each of the 32 brought.
enum class Operation { sync, shuffle, ballot };
const uint64_t* meet(Operation operation, unsigned mask, uint64_t value);

}  // namespace simt

template <class... Parameters, class... Args>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...), const Args&... args) {
  return simt::launch(reinterpret_cast<const void*>(kernel), *config, [&] { kernel(args...); });
}
template <class Kernel>
cudaError_t cudaOccupancyMaxActiveClusters(int* clusters, Kernel* kernel, const cudaLaunchConfig_t* config) {
  return simt::active_clusters(clusters, reinterpret_cast<const void*>(kernel), *config);
}

#define FASTADV_DYNAMIC_SHARED(name) unsigned char* const name = simt::dynamic_shared()

struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
inline void __stwb(uint4* to, uint4 value) { *to = value; }
// Several threads may write the same byte, all the same value.
inline void __stwb(unsigned char* to, unsigned char value) { __atomic_store_n(to, value, __ATOMIC_RELAXED); }

void __syncthreads();
void __syncwarp(unsigned mask = 0xFFFFFFFFu);

template <class V>
V __shfl_sync(unsigned mask, V value, unsigned from) {
  static_assert(sizeof(V) <= sizeof(uint64_t));
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof value);
  const uint64_t* all = simt::meet(simt::Operation::shuffle, mask, bits);
  std::memcpy(&value, &all[from % 32], sizeof value);
  return value;
}
template <class V>
V __shfl_xor_sync(unsigned mask, V value, int lanes) {
  return __shfl_sync(mask, value, threadIdx.x ^ static_cast<unsigned>(lanes));
}
template <class V>
V __shfl_up_sync(unsigned mask, V value, unsigned lanes) {
  return __shfl_sync(mask, value, threadIdx.x % 32 < lanes ? threadIdx.x : threadIdx.x - lanes);
}

inline unsigned __ballot_sync(unsigned mask, bool vote) {
  const uint64_t* all = simt::meet(simt::Operation::ballot, mask, vote);
  unsigned votes = 0;
  for (unsigned lane = 0; lane < 32; ++lane) votes |= static_cast<unsigned>(all[lane]) << lane;
  return votes;
}

inline int __popc(unsigned bits) { return __builtin_popcount(bits); }
inline int __ffs(unsigned bits) { return __builtin_ffs(static_cast<int>(bits)); }

inline int atomicAdd(int* at, int value) { return __atomic_fetch_add(at, value, __ATOMIC_RELAXED); }
inline unsigned atomicAdd(unsigned* at, unsigned value) { return __atomic_fetch_add(at, value, __ATOMIC_RELAXED); }
