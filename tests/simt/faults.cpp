// The simulator on trial: kernels with one fault each, picked by name, which must abort with the right message; and one
// without, which uses everything that the simulator offers.
#include "cuda_runtime.h"

#include <cstdio>
#include <map>
#include <string>

namespace {

void run(void (*kernel)(), unsigned threads = 64, size_t shared = 0) {
  FASTADV_LAUNCH(+[](void (*body)()) { body(); }, 2, threads, shared, nullptr, kernel);
}

void unstarted() {}

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
    {"no blocks", [] { FASTADV_LAUNCH(unstarted, 0, 32, 0, nullptr); }},
    {"much shared memory", [] { run(unstarted, 32, 48 * 1024); }},
};

struct Result {
  int failed[2], counted, halves;
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
  const unsigned ballot = __ballot_sync(0xFFFFFFFFu, lane % 4 == 1);
  right = right && ballot == 0x22222222u && __popc(ballot) == 8;
  atomicAdd(&result->counted, 1);
  atomicAdd(&result->failed[blockIdx.x], right ? 0 : 1);
  if (warp == 0) {
    atomicAdd(&votes, lane < 16 ? 1u : 0u);
    __syncwarp();
    if (lane == 31) atomicAdd(&result->halves, static_cast<int>(votes));
  }
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
  FASTADV_LAUNCH(faultless, 2, 96, bytes, nullptr, &result);
  std::printf("%d %d %d %d\n", result.failed[0], result.failed[1], result.counted, result.halves);
}
