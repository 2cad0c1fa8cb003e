// How this build was made and what it can do; read by `fastadv info`.
#include <pybind11/pybind11.h>

#include "loops.h"

namespace {

#ifdef FASTADV_MULTIVERSIONED
constexpr const char* kTargets = "x86-64-v4 (AVX-512), x86-64-v3 (AVX2), x86-64";
const char* selected() {
  __builtin_cpu_init();
  if (__builtin_cpu_supports("x86-64-v4")) return "x86-64-v4 (AVX-512)";
  return __builtin_cpu_supports("x86-64-v3") ? "x86-64-v3 (AVX2)" : "x86-64";
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
