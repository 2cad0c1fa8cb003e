// What the torch glue asks of the kernels: plain pointers and sizes, no torch, no device knowledge.
//
// Every function handles `rows` samples of `cols` elements that lie one behind the other, and returns 0 or the
// device's error code. It neither allocates nor waits.
#pragma once

#include <cstdint>

namespace fastadv {

enum class Dtype { float32, float64, float16, bfloat16 };

using Status = int;
constexpr Status kOk = 0;

struct Launch {
  Dtype dtype;         // of the samples
  int64_t rows, cols;  // samples, elements a sample
  void* stream;        // the CUDA stream; unused on the CPU
};

// One number a sample: float, or double for float64 samples. Stride 0 is one number for all.
struct PerSample {
  const void* data;
  int64_t stride;
};

enum class Norm { l1, l2, linf, rms };
enum class Law { uniform, sign };

struct LinfStepArgs {
  void* x_adv;  // in, out
  const void *grad, *x;
  PerSample step_size, eps;
  double lo, hi;
  const bool* active;  // null: all
};

struct RowNormsArgs {
  const void* x;
  const void* origin;  // null: zero
  void* norms;         // out, [rows], float or double
  Norm norm;
};

struct CutoffScaleArgs {
  void* x_adv;  // in, out
  const void* x;
  PerSample norms, eps;
  double rho;
  const bool* active;
};

struct RandomStartArgs {
  void* out;
  const void* x;
  const int64_t* ids;
  PerSample eps;
  int64_t seed, restart;
  Law law;
  double lo, hi;
  const bool* active;
};

Status linf_step(const Launch&, const LinfStepArgs&);
Status row_norms(const Launch&, const RowNormsArgs&);
Status cutoff_scale(const Launch&, const CutoffScaleArgs&);
Status random_start(const Launch&, const RandomStartArgs&);

}  // namespace fastadv
