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

enum class Norm { l1, l2, linf, rms, l0 };
enum class Loss { ce, margin, slm, dlr, pm, kl, spat };
enum class Law { uniform, sign, gaussian, l2, l1 };

struct LinfStepArgs {
  void* x_adv;  // in, out
  const void *grad, *x;
  PerSample step_size, eps;
  double lo, hi;
  const bool* active;  // null: all
  bool* nonfinite;     // set where the gradient is not finite; null: nobody asks
  void* momentum;      // in, out; null: the gradient's own sign
  double decay;
};

struct BallStepArgs {
  void* x_adv;  // in, out
  const void *grad, *x;
  PerSample step_size, eps;
  double lo, hi;
  const bool* active;
  bool* nonfinite;
};

struct ToppStepArgs {
  void* x_adv;  // in, out
  const void *grad, *x;
  PerSample step_size, eps;
  int64_t keep;      // how many entries of the gradient
  int64_t channels;  // innermost in memory; 1: memory is in logical order
  bool renormalise, simplex;
  double lo, hi;
  const bool* active;
  bool* nonfinite;
};

// l0_step and sparse_l1_step.
struct SparseStepArgs {
  void* x_adv;  // in, out
  const void *grad, *x;
  PerSample step_size, eps;
  PerSample entries;  // of sparse_l1_step: how many of the gradient
  int64_t channels;  // innermost in memory; 1: memory is in logical order
  double lo, hi;
  const bool* active;
  bool* nonfinite;
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
  PerSample norms, eps;  // eps.data null: the mean of the norms, which then have stride 1
  double rho;
  const bool* active;
};

struct EarlyStopArgs {
  const void* logits;
  const int64_t* labels;
  int64_t* tau;  // in, out
  const bool* active_before;
  int64_t* predictions;
  bool* active;
  int64_t *order, *count;
};

struct DeepfoolStepArgs {
  void* x_adv;  // out
  void* delta;  // in, out: float or double
  const void* x;
  const void* logits;  // [rows, classes], float or double
  const void* grads;   // [rows, classes, cols]
  const int64_t* labels;
  int64_t classes;
  double overshoot, beyond;
  bool linf;
  double lo, hi;
  const bool* active;
  bool* nonfinite;  // set where a gradient is not finite; null: nobody asks
  int64_t* target;
  void* distance;  // [rows], float or double
};

struct BisectStepArgs {
  void *inner, *outer, *middle;  // in, out
  const bool *inside, *active;
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

struct AdversarialLabelsArgs {
  void* soft;  // out, [rows, cols], float or double
  const void* logits;
  const int64_t* labels;
  double beta, gamma;
  bool sup;
  int64_t top_k;
};

struct WrongClassTargetArgs {
  int64_t* targets;
  const void* logits;
  const int64_t* labels;
  bool least_likely;
};

struct HyperplaneProjectionArgs {
  void* out;
  const void *x, *normal;
  PerSample offset;
  Norm norm;
  double lo, hi;
};

struct LossGradientArgs {
  const void* logits;
  const int64_t* labels;
  PerSample sign;
  const void* natural;  // kl, spat
  const int64_t* goal;  // dlr; null: the best other class
  Loss loss;
  double kappa, kl_weight, smoothing;
  void *grad, *losses;  // out; losses [rows], float or double
  bool* fooled;         // out
  bool* nonfinite;      // set where there is no gradient; null: nobody asks
};

struct PredictionsArgs {
  int64_t* classes;
  const void* logits;
};

struct KeepNearestArgs {
  void *best, *size;  // in, out; size [rows], float or double
  const void *x_adv, *x;
  const bool* fooled;
  Norm norm;
  const bool* active;
};

struct AcceptArgs {
  void* best;  // in, out, [rows]
  const void* loss;
  const bool *fooled, *active;
  bool *better, *going;  // out
};

struct ApgdStepArgs {
  void* previous;  // in: where x_adv has come from; out: where it goes to
  const void *x_adv, *grad, *x;
  PerSample step_size, eps;
  double share;
  bool l2;
  double lo, hi;
  const bool* active;
  bool* nonfinite;
};

struct AdamStepArgs {
  void* x_adv;          // in, out
  void *mean, *square;  // in, out: float or double
  const void *grad, *slope;
  PerSample weight, rate;
  double mean_decay, square_decay, mean_bias, square_bias, tiny;
  double lo, hi;
  const bool* active;
  bool* nonfinite;
};

struct L0AdamStepArgs {
  void* x_adv;           // in, out
  void *mean, *square;   // in, out: float or double
  const void *grad, *x;
  PerSample threshold, rate;
  double unit, sigma, each;  // each: 2 sigma over the number of entries
  double mean_decay, square_decay;
  double mean_bias, square_bias;  // 1 - decay^count
  double tiny, lo, hi;
  const bool* active;
  bool* nonfinite;
};

struct FabStepArgs {
  void* x_adv;  // in, out
  const void *x, *normal;
  PerSample lead;
  Norm norm;
  double alpha_max, eta, lo, hi;
  const bool* active;
  bool* nonfinite;
};

Status linf_step(const Launch&, const LinfStepArgs&);
Status l2_step(const Launch&, const BallStepArgs&);
Status l1_step(const Launch&, const BallStepArgs&);
Status l0_step(const Launch&, const SparseStepArgs&);
Status sparse_l1_step(const Launch&, const SparseStepArgs&);
Status l0_adam_step(const Launch&, const L0AdamStepArgs&);
Status topp_step(const Launch&, const ToppStepArgs&);
Status row_norms(const Launch&, const RowNormsArgs&);
Status cutoff_scale(const Launch&, const CutoffScaleArgs&);
Status early_stop(const Launch&, const EarlyStopArgs&);
Status deepfool_step(const Launch&, const DeepfoolStepArgs&);
Status bisect_step(const Launch&, const BisectStepArgs&);
Status random_start(const Launch&, const RandomStartArgs&);
Status adversarial_labels(const Launch&, const AdversarialLabelsArgs&);
Status wrong_class_target(const Launch&, const WrongClassTargetArgs&);
Status hyperplane_projection(const Launch&, const HyperplaneProjectionArgs&);
Status loss_gradient(const Launch&, const LossGradientArgs&);
Status predictions(const Launch&, const PredictionsArgs&);
Status keep_nearest(const Launch&, const KeepNearestArgs&);
Status accept(const Launch&, const AcceptArgs&);
Status apgd_step(const Launch&, const ApgdStepArgs&);
Status adam_step(const Launch&, const AdamStepArgs&);
Status fab_step(const Launch&, const FabStepArgs&);

}  // namespace fastadv
