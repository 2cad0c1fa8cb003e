// How this build was made and what it can do; read by `fastadv info`.
#include <pybind11/pybind11.h>

#include "loops.h"

namespace {

#ifdef FASTADV_TARGETS
constexpr const char* kTargets = "AVX-512, AVX2, x86-64";
const char* selected() {
  __builtin_cpu_init();
#if __GNUC__ >= 12
  const bool avx512 = __builtin_cpu_supports("x86-64-v4"), avx2 = __builtin_cpu_supports("x86-64-v3");
#else
  const bool avx512 = __builtin_cpu_supports("avx512f"), avx2 = __builtin_cpu_supports("avx2");
#endif
  return avx512 ? "AVX-512" : avx2 ? "AVX2" : "x86-64";
}
#else
constexpr const char* kTargets = "the compiler's default only";
const char* selected() { return kTargets; }
#endif

pybind11::dict build() {
  pybind11::dict info;
  info["torch"] = FASTADV_TORCH;
#ifdef __clang__
  info["compiler"] = "clang " __VERSION__;
#else
  info["compiler"] = "g++ " __VERSION__;
#endif
  info["cpu_targets"] = kTargets;
  info["cpu_selected"] = selected();
  info["cuda"] = FASTADV_CUDA_VERSION;
  info["cuda_architectures"] = FASTADV_CUDA_ARCHITECTURES;
  info["cuda_obstacle"] = FASTADV_CUDA_OBSTACLE;
  return info;
}

}  // namespace

PYBIND11_MODULE(_info, m) {
  m.def("build", &build, "How fastadv's compiled modules were built: versions, instruction sets, CUDA.");
}
