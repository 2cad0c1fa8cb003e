// The simulator on trial: kernels and launches with one fault each, picked by name, which must abort with the right message;
// and kernels without one, which use everything that the simulator offers.
#include "cuda_runtime.h"

#include <cooperative_groups.h>

#include <cstdio>
#include <map>
#include <string>

namespace {

namespace cg = cooperative_groups;

template <class... Parameters, class... Args>
cudaError_t launch(void (*kernel)(Parameters...), unsigned blocks, unsigned threads, size_t shared, unsigned cluster,
                   const Args&... args) {
  cudaLaunchAttribute attribute{cudaLaunchAttributeClusterDimension, {}};
  attribute.val.clusterDim.x = cluster;
  cudaLaunchConfig_t config{};
  config.gridDim.x = blocks;
  config.blockDim.x = threads;
  config.dynamicSmemBytes = shared;
  config.stream = simt_stream;
  config.attrs = &attribute;
  config.numAttrs = cluster > 1;
  cudaLaunchKernelEx(&config, kernel, args...);
  return cudaGetLastError();
}

void run(void (*kernel)(), unsigned threads = 64, size_t shared = 0, unsigned cluster = 1) {
  launch(+[](void (*body)()) { body(); }, 2, threads, shared, cluster, kernel);
}

void unstarted() {}
__global__ void __launch_bounds__(2 * 64) bounded() {}

// The first number in the shared memory of a block of the cluster.
int& of_block(unsigned rank) {
  FASTADV_DYNAMIC_SHARED(bytes);
  return *cg::this_cluster().map_shared_rank(reinterpret_cast<int*>(bytes), rank);
}
void in_cluster(void (*kernel)()) { run(kernel, 32, sizeof(int), 2); }

const std::map<std::string, void (*)()> kFaults = {
    {"a thread skips a barrier", [] { run([] { if (threadIdx.x != 40) __syncthreads(); }); }},
    {"a thread of a warp ends", [] { run([] { if (threadIdx.x != 40) __syncwarp(); }); }},
    {"a warp vote without some", [] { run([] { if (threadIdx.x % 32 < 9) __ballot_sync(0xFFFFFFFFu, true); }); }},
    {"another mask", [] { run([] { __shfl_xor_sync(0xFFFFu, 1.0, 1); }); }},
    {"an incomplete warp", [] { run([] { __syncwarp(); }, 48); }},
    {"different operations",
     [] { run([] { threadIdx.x % 2 ? __syncwarp() : void(__shfl_xor_sync(0xFFFFFFFFu, 1.0, 1)); }); }},
    {"a deadlock", [] { run([] { threadIdx.x % 2 ? __syncwarp() : __syncthreads(); }); }},
    {"many threads", [] { run(unstarted, 1025); }},
    {"more threads than the bounds", [] { launch(bounded, 1, 160, 0, 1); }},
    {"no blocks", [] { launch(unstarted, 0, 32, 0, 1); }},
    {"much shared memory", [] { run(unstarted, 32, 48 * 1024); }},
    {"another stream",
     [] {
       cudaLaunchConfig_t config{};
       config.stream = &config;
       cudaLaunchKernelEx(&config, unstarted);
     }},
    {"a launch not asked about",
     [] {
       cudaLaunchConfig_t config{};
       cudaLaunchKernelEx(&config, unstarted);
       run(unstarted);
     }},
    {"a last launch not asked about",
     [] {
       cudaLaunchConfig_t config{};
       cudaLaunchKernelEx(&config, unstarted);
     }},
    {"a large cluster", [] { launch(unstarted, 16, 32, 0, 16); }},
    {"half a cluster", [] { launch(unstarted, 3, 32, 0, 2); }},
    {"a block that may not run yet", [] { in_cluster([] { of_block(1) = 1; }); }},
    {"a block that may have ended",
     [] {
       in_cluster([] {
         cg::this_cluster().sync();
         if (blockIdx.x == 0) __syncthreads(), of_block(1) = 1;
       });
     }},
    {"a block skips a barrier of the cluster", [] { in_cluster([] { if (blockIdx.x == 0) cg::this_cluster().sync(); }); }},
    {"a static array in a cluster",
     [] {
       in_cluster([] {
         __shared__ int value;
         atomicAdd(&value, 1);
       });
     }},
    {"a race between blocks",
     [] {
       in_cluster([] {
         cg::this_cluster().sync();
         if (threadIdx.x == 0) of_block(1) = 1;
         cg::this_cluster().sync();
       });
     }},
};

struct Result {
  int failed[2], counted, halves, sum;
};

void faultless(Result* result) {
  __shared__ double unset;
  __shared__ unsigned votes;
  FASTADV_DYNAMIC_SHARED(bytes);
  double* const values = reinterpret_cast<double*>(bytes);
  const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  bool right = unset != unset && values[threadIdx.x] != values[threadIdx.x];
  __syncthreads();
  if (threadIdx.x == 0) unset = 0, votes = 0;
  if (warp == 2) return;  // a whole warp may, as long as no barrier follows

  for (unsigned i = 0; i < 3 * warp; ++i) {  // warps need not do the same
    values[threadIdx.x] = lane + i;
    __syncwarp();
    right = right && values[threadIdx.x ^ 1] == (lane ^ 1) + i;
    __syncwarp();
  }
  right = right && __shfl_xor_sync(0xFFFFFFFFu, 0.5f + lane, 3) == 0.5f + (lane ^ 3);
  right = right && __shfl_xor_sync(0xFFFFFFFFu, -1LL - lane, 16) == -1LL - (lane ^ 16);
  right = right && __shfl_up_sync(0xFFFFFFFFu, lane, 3) == (lane < 3 ? lane : lane - 3);
  right = right && __shfl_sync(0xFFFFFFFFu, lane, 7) == 7;
  const unsigned ballot = __ballot_sync(0xFFFFFFFFu, lane % 4 == 1);
  right = right && ballot == 0x22222222u && __popc(ballot) == 8 && __ffs(ballot) == 2;
  atomicAdd(&result->counted, 1);
  atomicAdd(&result->failed[blockIdx.x], right ? 0 : 1);
  if (warp == 0) {
    atomicAdd(&votes, lane < 16 ? 1u : 0u);
    __syncwarp();
    if (lane == 31) atomicAdd(&result->halves, static_cast<int>(votes));
  }
}

// Each of six blocks in two clusters learns what the others of its cluster have.
__global__ void __launch_bounds__(64) clusters(Result* result) {
  const cg::cluster_group cluster = cg::this_cluster();
  of_block(cluster.block_rank()) = 10 + static_cast<int>(blockIdx.x);
  cluster.sync();
  if (threadIdx.x == 63)
    for (unsigned rank = 0; rank < cluster.num_blocks(); ++rank) atomicAdd(&result->sum, of_block(rank));
  cluster.sync();
}

}  // namespace

int main(int, char** arguments) {
  if (arguments[1]) {
    kFaults.at(arguments[1])();
    return 0;
  }
  const size_t bytes = 3 * 32 * sizeof(double);
  int most = 0, device = 1;
  Result result{};
  if (cudaGetDevice(&device) || device) return 1;
  if (cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device)) return 1;
  const auto ask = [](int much) {
    const auto kernel = reinterpret_cast<const void*>(faultless);
    return cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, much);
  };
  if (ask(most) != cudaErrorInvalidValue || cudaGetLastError() != cudaErrorInvalidValue) return 2;  // statics, too
  if (ask(most / 2) != cudaSuccess || cudaGetLastError() != cudaSuccess) return 3;
  if (launch(faultless, 2, 96, bytes, 1, &result)) return 4;
  if (launch(clusters, 6, 64, sizeof(int), 3, &result)) return 5;
  std::printf("%d %d %d %d %d\n", result.failed[0], result.failed[1], result.counted, result.halves, result.sum);
}
