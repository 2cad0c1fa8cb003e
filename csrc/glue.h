// Torch on one side, kernels.h on the other: checks, layouts, allocation. Written on the libtorch stable ABI and
// compiled once for each device, whose glue.cpp defines FASTADV_DEVICE and DeviceScope (its device guard and stream)
// before including this.
//
// The checks here keep memory safe whoever calls; fastadv/ops/ says the same things more kindly first.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <cmath>
#include <initializer_list>
#include <optional>
#include <string>
#include <tuple>
#include <utility>

#include "tensors.h"

namespace fastadv {
namespace {

// One call of one op on a batch: checks its arguments against the samples it is about, and launches.
class Call {
 public:
  Call(const char* op, const Tensor& samples) : op_(op), samples_(samples), scope_(samples) {
    STD_TORCH_CHECK(samples.dim() >= 1, op, ": samples need a batch dimension");
    rows_ = samples.size(0);
    launch_ = {dtype_of(op, samples), rows_, rows_ ? samples.numel() / rows_ : 0, scope_.stream()};
  }

  const Launch& launch() const { return launch_; }
  int64_t rows() const { return rows_; }
  int64_t cols() const { return launch_.cols; }

  // `t`, a tensor like the samples, in the layout of `layout`: itself where it has it, a copy where not. `type` where it
  // is not the samples' own.
  Tensor samples(const char* name, const Tensor& t, const Tensor& layout, std::optional<ScalarType> type = {}) const {
    like_samples(name, t, type.value_or(samples_.scalar_type()));
    if (same_layout(t, layout)) return t;
    Tensor copy = torch::stable::empty_like(layout);
    if (copy.scalar_type() != t.scalar_type()) copy = torch::stable::to(copy, t.scalar_type());
    torch::stable::copy_(copy, t);
    return copy;
  }

  // Brings what a kernel wrote in such a copy home.
  static void back(Tensor& t, const Tensor& used) {
    if (used.const_data_ptr() != t.const_data_ptr()) torch::stable::copy_(t, used);
  }

  // [rows, classes] logits beside the samples, contiguous.
  Tensor table(const char* name, const Tensor& t) const {
    STD_TORCH_CHECK(t.dim() == 2 && t.size(0) == rows_, op_, ": ", name, " must be [samples, classes]");
    STD_TORCH_CHECK(t.scalar_type() == compute_type(samples_), op_, ": ", name,
                    " must be float32 (float64 for float64 samples)");
    same_device(name, t);
    return torch::stable::contiguous(t);
  }

  // A new tensor with one value a sample.
  Tensor new_column(ScalarType type) const {
    const int64_t size[] = {rows_};
    return torch::stable::new_empty(samples_, {size, 1}, type);
  }

  PerSample per_sample(const char* name, const Tensor& t) const {
    vector(name, t);
    STD_TORCH_CHECK(t.scalar_type() == compute_type(samples_), op_, ": ", name,
                    " must be float32 (float64 for float64 samples)");
    return {t.const_data_ptr(), t.stride(0)};
  }

  // The mask or ids of a batch, made contiguous; `keep` owns a copy if one is needed.
  template <class T>
  const T* column(const char* name, const Tensor& t, ScalarType type, Tensor& keep) const {
    vector(name, t);
    STD_TORCH_CHECK(t.scalar_type() == type, op_, ": ", name, " has the wrong dtype");
    keep = torch::stable::contiguous(t);
    return static_cast<const T*>(keep.const_data_ptr());
  }

  const bool* mask(const std::optional<Tensor>& active, Tensor& keep) const {
    return active ? column<bool>("active", *active, ScalarType::Bool, keep) : nullptr;
  }
  const int64_t* integers(const char* name, const Tensor& t, Tensor& keep) const {
    return column<int64_t>(name, t, ScalarType::Long, keep);
  }

  // A mask that the kernel writes to; `back` brings a copy home.
  bool* flags(const std::optional<Tensor>& nonfinite, Tensor& keep) const {
    return nonfinite ? const_cast<bool*>(column<bool>("nonfinite", *nonfinite, ScalarType::Bool, keep)) : nullptr;
  }
  static void back(std::optional<Tensor>& t, const Tensor& used) {
    if (t) back(*t, used);
  }

  void done(Status status) const { DeviceScope::check(op_, status); }

 private:
  void like_samples(const char* name, const Tensor& t, ScalarType type) const {
    STD_TORCH_CHECK(t.dim() == samples_.dim(), op_, ": ", name, " has another number of dimensions");
    for (int64_t d = 0; d < t.dim(); ++d)
      STD_TORCH_CHECK(t.size(d) == samples_.size(d), op_, ": ", name, " has another shape");
    STD_TORCH_CHECK(t.scalar_type() == type, op_, ": ", name, " has another dtype");
    same_device(name, t);
  }

  void vector(const char* name, const Tensor& t) const {
    STD_TORCH_CHECK(t.dim() == 1 && t.size(0) == rows_, op_, ": ", name, " must hold one value a sample");
    same_device(name, t);
  }

  void same_device(const char* name, const Tensor& t) const {
    STD_TORCH_CHECK(t.device() == samples_.device(), op_, ": ", name, " is on another device");
  }

  const char* op_;
  Tensor samples_;
  DeviceScope scope_;
  int64_t rows_;
  Launch launch_;
};

// Runs `kernel` on a dense form of x_adv and brings the result back where that is a copy.
template <class Kernel>
void in_place(Tensor& x_adv, Kernel kernel) {
  if (row_dense(x_adv)) return kernel(x_adv);
  Tensor dense = torch::stable::contiguous(x_adv);
  kernel(dense);
  torch::stable::copy_(x_adv, dense);
}

// The values of `t` in the layout that torch gives to something like `x`.
Tensor like(const Tensor& x, const Tensor& t) {
  Tensor out = torch::stable::empty_like(x);
  torch::stable::copy_(out, t);
  return out;
}

// Which of `names` the string is.
template <class E>
E choice(const char* op, const char* what, const std::string& given, std::initializer_list<std::pair<const char*, E>> names) {
  for (const auto& [name, value] : names)
    if (given == name) return value;
  STD_TORCH_CHECK(false, op, ": unknown ", what, " ", given);
}

Norm norm_named(const char* op, const std::string& given) {
  return choice<Norm>(op, "norm", given,
                      {{"l1", Norm::l1}, {"l2", Norm::l2}, {"linf", Norm::linf}, {"rms", Norm::rms}, {"l0", Norm::l0}});
}

void linf_step_op(Tensor x_adv, Tensor grad, Tensor x, Tensor step_size, Tensor eps, double lo, double hi,
                  std::optional<Tensor> active, std::optional<Tensor> nonfinite, std::optional<Tensor> momentum,
                  double decay) {
  const Call call("linf_step", x_adv);
  in_place(x_adv, [&](const Tensor& out) {
    const Tensor g = call.samples("grad", grad, out), origin = call.samples("x", x, out);
    Tensor keep, noted, buffer;
    if (momentum) buffer = call.samples("momentum", *momentum, out);
    call.done(linf_step(call.launch(),
                        {out.mutable_data_ptr(), g.const_data_ptr(), origin.const_data_ptr(),
                         call.per_sample("step_size", step_size), call.per_sample("eps", eps), lo, hi,
                         call.mask(active, keep), call.flags(nonfinite, noted),
                         momentum ? buffer.mutable_data_ptr() : nullptr, decay}));
    Call::back(momentum, buffer);
    Call::back(nonfinite, noted);
  });
}

// l2_step and l1_step.
template <Status (*kernel)(const Launch&, const BallStepArgs&)>
void ball_step(const char* op, Tensor x_adv, Tensor grad, Tensor x, Tensor step_size, Tensor eps, double lo, double hi,
               std::optional<Tensor> active, std::optional<Tensor> nonfinite) {
  const Call call(op, x_adv);
  in_place(x_adv, [&](const Tensor& out) {
    const Tensor g = call.samples("grad", grad, out), origin = call.samples("x", x, out);
    Tensor keep, noted;
    call.done(kernel(call.launch(), {out.mutable_data_ptr(), g.const_data_ptr(), origin.const_data_ptr(),
                                     call.per_sample("step_size", step_size), call.per_sample("eps", eps), lo, hi,
                                     call.mask(active, keep), call.flags(nonfinite, noted)}));
    Call::back(nonfinite, noted);
  });
}

void l2_step_op(Tensor x_adv, Tensor grad, Tensor x, Tensor step_size, Tensor eps, double lo, double hi,
                std::optional<Tensor> active, std::optional<Tensor> nonfinite) {
  ball_step<l2_step>("l2_step", x_adv, grad, x, step_size, eps, lo, hi, active, nonfinite);
}

void l1_step_op(Tensor x_adv, Tensor grad, Tensor x, Tensor step_size, Tensor eps, double lo, double hi,
                std::optional<Tensor> active, std::optional<Tensor> nonfinite) {
  ball_step<l1_step>("l1_step", x_adv, grad, x, step_size, eps, lo, hi, active, nonfinite);
}

// A kernel that tells equal entries apart by their logical order: kernel(x_adv in such memory, channels that lie innermost).
template <class F>
void in_order(Tensor x_adv, F&& kernel) {
  const int64_t channels = innermost(x_adv);
  const Tensor out = channels ? x_adv : torch::stable::contiguous(x_adv);
  kernel(out, channels ? channels : 1);
  Call::back(x_adv, out);
}

// l0_step and sparse_l1_step, which has a number of entries.
template <Status (*kernel)(const Launch&, const SparseStepArgs&)>
void sparse_step(const char* op, Tensor x_adv, Tensor grad, Tensor x, Tensor step_size, Tensor eps,
                 std::optional<Tensor> entries, double lo, double hi, std::optional<Tensor> active,
                 std::optional<Tensor> nonfinite) {
  const Call call(op, x_adv);
  in_order(x_adv, [&](const Tensor& out, int64_t channels) {
    const Tensor g = call.samples("grad", grad, out), origin = call.samples("x", x, out);
    Tensor keep, noted;
    call.done(kernel(call.launch(), {out.mutable_data_ptr(), g.const_data_ptr(), origin.const_data_ptr(),
                                     call.per_sample("step_size", step_size), call.per_sample("eps", eps),
                                     entries ? call.per_sample("entries", *entries) : PerSample{nullptr, 0}, channels, lo, hi,
                                     call.mask(active, keep), call.flags(nonfinite, noted)}));
    Call::back(nonfinite, noted);
  });
}

void l0_step_op(Tensor x_adv, Tensor grad, Tensor x, Tensor step_size, Tensor eps, double lo, double hi,
                std::optional<Tensor> active, std::optional<Tensor> nonfinite) {
  sparse_step<l0_step>("l0_step", x_adv, grad, x, step_size, eps, std::nullopt, lo, hi, active, nonfinite);
}

void sparse_l1_step_op(Tensor x_adv, Tensor grad, Tensor x, Tensor step_size, Tensor eps, Tensor entries, double lo,
                       double hi, std::optional<Tensor> active, std::optional<Tensor> nonfinite) {
  sparse_step<sparse_l1_step>("sparse_l1_step", x_adv, grad, x, step_size, eps, entries, lo, hi, active, nonfinite);
}

void topp_step_op(Tensor x_adv, Tensor grad, Tensor x, Tensor step_size, Tensor eps, double p, std::string normalise,
                  std::string projection, double lo, double hi, std::optional<Tensor> active,
                  std::optional<Tensor> nonfinite) {
  const Call call("topp_step", x_adv);
  STD_TORCH_CHECK(p > 0 && p <= 1, "topp_step: p must be in (0, 1], got ", p);
  const bool renormalise = choice<bool>("topp_step", "normalise", normalise, {{"all", false}, {"kept", true}});
  const bool simplex = choice<bool>("topp_step", "projection", projection, {{"radial", false}, {"simplex", true}});
  // A hair less than p: its rounding must not keep one entry more.
  const auto keep = static_cast<int64_t>(std::ceil(p * (1 - std::ldexp(1.0, -40)) * static_cast<double>(call.cols())));
  in_order(x_adv, [&](const Tensor& out, int64_t channels) {
    const Tensor g = call.samples("grad", grad, out), origin = call.samples("x", x, out);
    Tensor keep_mask, noted;
    call.done(topp_step(call.launch(), {out.mutable_data_ptr(), g.const_data_ptr(), origin.const_data_ptr(),
                                        call.per_sample("step_size", step_size), call.per_sample("eps", eps), keep,
                                        channels, renormalise, simplex, lo, hi, call.mask(active, keep_mask),
                                        call.flags(nonfinite, noted)}));
    Call::back(nonfinite, noted);
  });
}

Tensor row_norms_op(Tensor x, std::string norm, std::optional<Tensor> origin) {
  const Call call("row_norms", x);
  const Norm which = norm_named("row_norms", norm);
  const Tensor dense = row_dense(x) ? x : torch::stable::contiguous(x);
  Tensor base;
  if (origin) base = call.samples("origin", *origin, dense);
  Tensor norms = call.new_column(compute_type(x));
  call.done(row_norms(call.launch(), {dense.const_data_ptr(), origin ? base.const_data_ptr() : nullptr,
                                      norms.mutable_data_ptr(), which}));
  return norms;
}

void cutoff_scale_op(Tensor x_adv, Tensor x, Tensor norms, std::optional<Tensor> eps, double rho,
                     std::optional<Tensor> active) {
  const Call call("cutoff_scale", x_adv);
  const Tensor measured = eps ? norms : torch::stable::contiguous(norms);
  in_place(x_adv, [&](const Tensor& out) {
    const Tensor origin = call.samples("x", x, out);
    Tensor keep;
    call.done(cutoff_scale(call.launch(), {out.mutable_data_ptr(), origin.const_data_ptr(),
                                           call.per_sample("norms", measured),
                                           eps ? call.per_sample("eps", *eps) : PerSample{nullptr, 0}, rho,
                                           call.mask(active, keep)}));
  });
}

std::tuple<Tensor, Tensor, Tensor, Tensor> early_stop_op(Tensor logits, Tensor labels, Tensor tau,
                                                         std::optional<Tensor> active) {
  const Call call("early_stop", logits);
  STD_TORCH_CHECK(logits.dim() == 2 && logits.size(1) > 0, "early_stop: logits must be [samples, classes]");
  const Tensor dense = torch::stable::contiguous(logits), left = torch::stable::contiguous(tau);
  Tensor keep_labels, keep_tau, keep_mask;
  const int64_t* classes = call.integers("labels", labels, keep_labels);
  call.integers("tau", left, keep_tau);
  Tensor predictions = call.new_column(ScalarType::Long), order = call.new_column(ScalarType::Long);
  Tensor going_on = call.new_column(ScalarType::Bool);
  const int64_t one[] = {1};
  Tensor count = torch::stable::new_empty(logits, {one, 1}, ScalarType::Long);
  call.done(early_stop(call.launch(), {dense.const_data_ptr(), classes, static_cast<int64_t*>(left.mutable_data_ptr()),
                                       call.mask(active, keep_mask),
                                       static_cast<int64_t*>(predictions.mutable_data_ptr()),
                                       static_cast<bool*>(going_on.mutable_data_ptr()),
                                       static_cast<int64_t*>(order.mutable_data_ptr()),
                                       static_cast<int64_t*>(count.mutable_data_ptr())}));
  Call::back(tau, left);
  return {predictions, going_on, order, count};
}

// True where `grads` [rows, classes, ...] holds one sample after the other as `x` does.
bool gradients_match(const Tensor& grads, const Tensor& x, int64_t cols) {
  for (int64_t d = 1; d < x.dim(); ++d)
    if (x.size(d) > 1 && grads.stride(d + 1) != x.stride(d)) return false;
  return (grads.size(1) <= 1 || grads.stride(1) == cols) &&
         (grads.size(0) <= 1 || grads.stride(0) == grads.size(1) * cols);
}

std::tuple<Tensor, Tensor> deepfool_step_op(Tensor x_adv, Tensor delta, Tensor x, Tensor logits, Tensor grads,
                                            Tensor labels, double overshoot, double beyond, std::string norm, double lo,
                                            double hi, std::optional<Tensor> active,
                                            std::optional<Tensor> nonfinite) {
  const Call call("deepfool_step", x_adv);
  const bool linf = choice<bool>("deepfool_step", "norm", norm, {{"l2", false}, {"linf", true}});
  const Tensor scores = call.table("logits", logits);
  STD_TORCH_CHECK(grads.dim() == x.dim() + 1 && grads.size(1) == scores.size(1) && scores.size(1) > 0,
                  "deepfool_step: grads must be [samples, classes, ...]");
  for (int64_t d = 0; d < x_adv.dim(); ++d)
    STD_TORCH_CHECK(grads.size(d ? d + 1 : 0) == x_adv.size(d), "deepfool_step: grads has another shape");
  STD_TORCH_CHECK(grads.scalar_type() == x_adv.scalar_type(), "deepfool_step: grads has another dtype");
  STD_TORCH_CHECK(grads.device() == x_adv.device(), "deepfool_step: grads is on another device");
  const bool as_it_is = row_dense(x_adv) && gradients_match(grads, x_adv, call.cols());
  const Tensor out = as_it_is ? x_adv : torch::stable::contiguous(x_adv);
  const Tensor slopes = as_it_is ? grads : torch::stable::contiguous(grads);
  const Tensor origin = call.samples("x", x, out), moved = call.samples("delta", delta, out, compute_type(x_adv));
  Tensor keep_labels, keep_mask, noted;
  const int64_t* classes = call.integers("labels", labels, keep_labels);
  // Samples that are not active keep what is here.
  Tensor target = torch::stable::clone(keep_labels), distance = call.new_column(compute_type(x_adv));
  if (active) torch::stable::zero_(distance);
  call.done(deepfool_step(call.launch(), {out.mutable_data_ptr(), moved.mutable_data_ptr(), origin.const_data_ptr(),
                                          scores.const_data_ptr(), slopes.const_data_ptr(), classes, scores.size(1),
                                          overshoot, beyond, linf, lo, hi, call.mask(active, keep_mask),
                                          call.flags(nonfinite, noted), static_cast<int64_t*>(target.mutable_data_ptr()),
                                          distance.mutable_data_ptr()}));
  Call::back(x_adv, out);
  Call::back(delta, moved);
  Call::back(nonfinite, noted);
  return {target, distance};
}

void bisect_step_op(Tensor inner, Tensor outer, Tensor middle, Tensor inside, std::optional<Tensor> active) {
  const Call call("bisect_step", inner);
  const Tensor in = row_dense(inner) ? inner : torch::stable::contiguous(inner);
  const Tensor out = call.samples("outer", outer, in), between = call.samples("middle", middle, in);
  Tensor keep_inside, keep_active;
  call.done(bisect_step(call.launch(), {in.mutable_data_ptr(), out.mutable_data_ptr(), between.mutable_data_ptr(),
                                        call.column<bool>("inside", inside, ScalarType::Bool, keep_inside),
                                        call.mask(active, keep_active)}));
  Call::back(inner, in);
  Call::back(outer, out);
  Call::back(middle, between);
}

Tensor random_start_op(Tensor x, Tensor ids, Tensor eps, int64_t seed, int64_t restart, std::string law, double lo,
                       double hi, std::optional<Tensor> active) {
  const Call call("random_start", x);
  const Law which = choice<Law>("random_start", "law", law,
                                {{"uniform", Law::uniform}, {"sign", Law::sign}, {"gaussian", Law::gaussian},
                                 {"l2", Law::l2}, {"l1", Law::l1}});
  // Noise is numbered in logical order, so that it does not depend on the memory format.
  const Tensor dense = torch::stable::contiguous(x);
  Tensor noisy = torch::stable::empty_like(dense), keep_ids, keep_mask;
  call.done(random_start(call.launch(), {noisy.mutable_data_ptr(), dense.const_data_ptr(),
                                         call.integers("ids", ids, keep_ids), call.per_sample("eps", eps), seed, restart,
                                         which, lo, hi, call.mask(active, keep_mask)}));
  return x.is_contiguous() ? noisy : like(x, noisy);
}

Tensor adversarial_labels_op(Tensor logits, Tensor labels, double beta, double gamma, std::string variant,
                             int64_t top_k) {
  const Call call("adversarial_labels", logits);
  STD_TORCH_CHECK(logits.dim() == 2 && logits.size(1) > 1, "adversarial_labels: logits must be [samples, classes]");
  const bool sup = choice<bool>("adversarial_labels", "variant", variant, {{"main", false}, {"sup", true}});
  const Tensor dense = torch::stable::contiguous(logits);
  const int64_t size[] = {logits.size(0), logits.size(1)};
  Tensor soft = torch::stable::new_empty(logits, {size, 2}, compute_type(logits)), keep_labels;
  call.done(adversarial_labels(call.launch(),
                               {soft.mutable_data_ptr(), dense.const_data_ptr(),
                                call.integers("labels", labels, keep_labels), beta, gamma, sup, top_k}));
  return soft;
}

Tensor wrong_class_target_op(Tensor logits, Tensor labels, std::string which) {
  const Call call("wrong_class_target", logits);
  STD_TORCH_CHECK(logits.dim() == 2 && logits.size(1) > 1, "wrong_class_target: logits must be [samples, classes]");
  const bool least = choice<bool>("wrong_class_target", "which", which, {{"most_confusing", false}, {"least_likely", true}});
  const Tensor dense = torch::stable::contiguous(logits);
  Tensor targets = call.new_column(ScalarType::Long), keep_labels;
  call.done(wrong_class_target(call.launch(), {static_cast<int64_t*>(targets.mutable_data_ptr()), dense.const_data_ptr(),
                                               call.integers("labels", labels, keep_labels), least}));
  return targets;
}

Tensor hyperplane_projection_op(Tensor x, Tensor normal, Tensor offset, std::string norm, double lo, double hi) {
  const Call call("hyperplane_projection", x);
  const Norm which = choice<Norm>("hyperplane_projection", "norm", norm,
                                  {{"l1", Norm::l1}, {"l2", Norm::l2}, {"linf", Norm::linf}});
  const Tensor dense = row_dense(x) ? x : torch::stable::contiguous(x);
  const Tensor slope = call.samples("normal", normal, dense);
  Tensor delta = torch::stable::empty_like(dense);
  call.done(hyperplane_projection(call.launch(), {delta.mutable_data_ptr(), dense.const_data_ptr(),
                                                  slope.const_data_ptr(), call.per_sample("offset", offset), which, lo,
                                                  hi}));
  return row_dense(x) ? delta : like(x, delta);
}

Tensor predictions_op(Tensor logits) {
  const Call call("predictions", logits);
  STD_TORCH_CHECK(logits.dim() == 2 && logits.size(1) > 0, "predictions: logits must be [samples, classes]");
  const Tensor dense = torch::stable::contiguous(logits);
  Tensor classes = call.new_column(ScalarType::Long);
  call.done(predictions(call.launch(), {static_cast<int64_t*>(classes.mutable_data_ptr()), dense.const_data_ptr()}));
  return classes;
}

std::tuple<Tensor, Tensor, Tensor> loss_gradient_op(Tensor logits, Tensor labels, Tensor sign, std::string loss,
                                                    std::optional<Tensor> natural, std::optional<Tensor> goal,
                                                    double kappa, double kl_weight, double smoothing,
                                                    std::optional<Tensor> nonfinite) {
  const Call call("loss_gradient", logits);
  const Loss which = choice<Loss>("loss_gradient", "loss", loss,
                                  {{"ce", Loss::ce}, {"margin", Loss::margin}, {"slm", Loss::slm}, {"dlr", Loss::dlr},
                                   {"pm", Loss::pm}, {"kl", Loss::kl}, {"spat", Loss::spat}});
  const int64_t least = which != Loss::dlr ? 2 : goal ? 4 : 3;
  STD_TORCH_CHECK(logits.dim() == 2 && logits.size(1) >= least, "loss_gradient: logits must be [samples, classes], with ",
                  least, " classes at least");
  STD_TORCH_CHECK(natural || (which != Loss::kl && which != Loss::spat), "loss_gradient: ", loss, " needs natural");
  const Tensor dense = torch::stable::contiguous(logits);
  Tensor keep_labels, keep_goal, reference, noted;
  if (natural) reference = call.samples("natural", *natural, dense);
  Tensor grad = torch::stable::empty_like(dense), losses = call.new_column(compute_type(logits));
  Tensor fooled = call.new_column(ScalarType::Bool);
  call.done(loss_gradient(call.launch(), {dense.const_data_ptr(), call.integers("labels", labels, keep_labels),
                                          call.per_sample("sign", sign), natural ? reference.const_data_ptr() : nullptr,
                                          goal ? call.integers("goal", *goal, keep_goal) : nullptr, which, kappa,
                                          kl_weight, smoothing, grad.mutable_data_ptr(), losses.mutable_data_ptr(),
                                          static_cast<bool*>(fooled.mutable_data_ptr()),
                                          call.flags(nonfinite, noted)}));
  Call::back(nonfinite, noted);
  return {grad, losses, fooled};
}

void keep_nearest_op(Tensor best, Tensor size, Tensor x_adv, Tensor x, Tensor fooled, std::string norm,
                     std::optional<Tensor> active) {
  const Call call("keep_nearest", best);
  const Norm which = norm_named("keep_nearest", norm);
  call.per_sample("size", size);
  const Tensor sizes = torch::stable::contiguous(size);
  in_place(best, [&](const Tensor& out) {
    const Tensor here = call.samples("x_adv", x_adv, out), origin = call.samples("x", x, out);
    Tensor keep_fooled, keep_mask;
    call.done(keep_nearest(call.launch(), {out.mutable_data_ptr(), sizes.mutable_data_ptr(), here.const_data_ptr(),
                                           origin.const_data_ptr(),
                                           call.column<bool>("fooled", fooled, ScalarType::Bool, keep_fooled), which,
                                           call.mask(active, keep_mask)}));
  });
  Call::back(size, sizes);
}

std::tuple<Tensor, Tensor> accept_op(Tensor best, Tensor loss, Tensor fooled, std::optional<Tensor> active) {
  const Call call("accept", best);
  STD_TORCH_CHECK(best.dim() == 1, "accept: best must hold one value a sample");
  const Tensor losses = torch::stable::contiguous(call.samples("loss", loss, loss));
  const Tensor out = torch::stable::contiguous(best);
  Tensor keep_fooled, keep_mask, better = call.new_column(ScalarType::Bool), going = call.new_column(ScalarType::Bool);
  call.done(accept(call.launch(), {out.mutable_data_ptr(), losses.const_data_ptr(),
                                   call.column<bool>("fooled", fooled, ScalarType::Bool, keep_fooled),
                                   call.mask(active, keep_mask), static_cast<bool*>(better.mutable_data_ptr()),
                                   static_cast<bool*>(going.mutable_data_ptr())}));
  Call::back(best, out);
  return {better, going};
}

void apgd_step_op(Tensor previous, Tensor x_adv, Tensor grad, Tensor x, Tensor step_size, Tensor eps, std::string norm,
                  double share, double lo, double hi, std::optional<Tensor> active, std::optional<Tensor> nonfinite) {
  const Call call("apgd_step", previous);
  const bool l2 = choice<bool>("apgd_step", "norm", norm, {{"linf", false}, {"l2", true}});
  in_place(previous, [&](const Tensor& out) {
    const Tensor here = call.samples("x_adv", x_adv, out), g = call.samples("grad", grad, out);
    const Tensor origin = call.samples("x", x, out);
    Tensor keep, noted;
    call.done(apgd_step(call.launch(), {out.mutable_data_ptr(), here.const_data_ptr(), g.const_data_ptr(),
                                        origin.const_data_ptr(), call.per_sample("step_size", step_size),
                                        call.per_sample("eps", eps), share, l2, lo, hi, call.mask(active, keep),
                                        call.flags(nonfinite, noted)}));
    Call::back(nonfinite, noted);
  });
}

void adam_step_op(Tensor x_adv, Tensor mean, Tensor square, Tensor grad, Tensor slope, Tensor weight, Tensor rate,
                  int64_t count, double mean_decay, double square_decay, double tiny, double lo, double hi,
                  std::optional<Tensor> active, std::optional<Tensor> nonfinite) {
  const Call call("adam_step", x_adv);
  STD_TORCH_CHECK(count >= 1, "adam_step: count must be at least 1, got ", count);
  in_place(x_adv, [&](const Tensor& out) {
    const Tensor g = call.samples("grad", grad, out), s = call.samples("slope", slope, out);
    const Tensor first = call.samples("mean", mean, out, compute_type(x_adv));
    const Tensor second = call.samples("square", square, out, compute_type(x_adv));
    Tensor keep, noted;
    const double steps = static_cast<double>(count);
    call.done(adam_step(call.launch(), {out.mutable_data_ptr(), first.mutable_data_ptr(), second.mutable_data_ptr(),
                                        g.const_data_ptr(), s.const_data_ptr(), call.per_sample("weight", weight),
                                        call.per_sample("rate", rate), mean_decay, square_decay,
                                        1 - std::pow(mean_decay, steps), 1 - std::pow(square_decay, steps), tiny, lo, hi,
                                        call.mask(active, keep), call.flags(nonfinite, noted)}));
    Call::back(mean, first);
    Call::back(square, second);
    Call::back(nonfinite, noted);
  });
}

void l0_adam_step_op(Tensor x_adv, Tensor mean, Tensor square, Tensor grad, Tensor x, Tensor threshold, Tensor rate,
                     int64_t count, double sigma, double unit, double mean_decay, double square_decay, double tiny, double lo,
                     double hi, std::optional<Tensor> active, std::optional<Tensor> nonfinite) {
  const Call call("l0_adam_step", x_adv);
  STD_TORCH_CHECK(count >= 1, "l0_adam_step: count must be at least 1, got ", count);
  in_place(x_adv, [&](const Tensor& out) {
    const Tensor g = call.samples("grad", grad, out), origin = call.samples("x", x, out);
    const Tensor first = call.samples("mean", mean, out, compute_type(x_adv));
    const Tensor second = call.samples("square", square, out, compute_type(x_adv));
    Tensor keep, noted;
    const double steps = static_cast<double>(count), each = 2 * sigma / static_cast<double>(std::max<int64_t>(call.cols(), 1));
    call.done(l0_adam_step(call.launch(), {out.mutable_data_ptr(), first.mutable_data_ptr(), second.mutable_data_ptr(),
                                           g.const_data_ptr(), origin.const_data_ptr(),
                                           call.per_sample("threshold", threshold), call.per_sample("rate", rate), unit,
                                           sigma, each, mean_decay, square_decay, 1 - std::pow(mean_decay, steps),
                                           1 - std::pow(square_decay, steps), tiny, lo, hi, call.mask(active, keep),
                                           call.flags(nonfinite, noted)}));
    Call::back(mean, first);
    Call::back(square, second);
    Call::back(nonfinite, noted);
  });
}

void fab_step_op(Tensor x_adv, Tensor x, Tensor normal, Tensor lead, std::string norm, double alpha_max, double eta,
                 double lo, double hi, std::optional<Tensor> active, std::optional<Tensor> nonfinite) {
  const Call call("fab_step", x_adv);
  const Norm which = choice<Norm>("fab_step", "norm", norm,
                                  {{"l1", Norm::l1}, {"l2", Norm::l2}, {"linf", Norm::linf}});
  in_place(x_adv, [&](const Tensor& out) {
    const Tensor origin = call.samples("x", x, out), slope = call.samples("normal", normal, out);
    Tensor keep, noted;
    call.done(fab_step(call.launch(), {out.mutable_data_ptr(), origin.const_data_ptr(), slope.const_data_ptr(),
                                       call.per_sample("lead", lead), which, alpha_max, eta, lo, hi,
                                       call.mask(active, keep), call.flags(nonfinite, noted)}));
    Call::back(nonfinite, noted);
  });
}

}  // namespace
}  // namespace fastadv

#ifndef FASTADV_NAMESPACE
#define FASTADV_NAMESPACE fastadv
#endif

// The schemas are those of fastadv/ops/; here each device adds its kernels to them.
STABLE_TORCH_LIBRARY_IMPL(FASTADV_NAMESPACE, FASTADV_DEVICE, m) {
  m.impl("linf_step", TORCH_BOX(&fastadv::linf_step_op));
  m.impl("l2_step", TORCH_BOX(&fastadv::l2_step_op));
  m.impl("l1_step", TORCH_BOX(&fastadv::l1_step_op));
  m.impl("l0_step", TORCH_BOX(&fastadv::l0_step_op));
  m.impl("sparse_l1_step", TORCH_BOX(&fastadv::sparse_l1_step_op));
  m.impl("l0_adam_step", TORCH_BOX(&fastadv::l0_adam_step_op));
  m.impl("topp_step", TORCH_BOX(&fastadv::topp_step_op));
  m.impl("row_norms", TORCH_BOX(&fastadv::row_norms_op));
  m.impl("cutoff_scale", TORCH_BOX(&fastadv::cutoff_scale_op));
  m.impl("early_stop", TORCH_BOX(&fastadv::early_stop_op));
  m.impl("deepfool_step", TORCH_BOX(&fastadv::deepfool_step_op));
  m.impl("bisect_step", TORCH_BOX(&fastadv::bisect_step_op));
  m.impl("random_start", TORCH_BOX(&fastadv::random_start_op));
  m.impl("adversarial_labels", TORCH_BOX(&fastadv::adversarial_labels_op));
  m.impl("wrong_class_target", TORCH_BOX(&fastadv::wrong_class_target_op));
  m.impl("hyperplane_projection", TORCH_BOX(&fastadv::hyperplane_projection_op));
  m.impl("loss_gradient", TORCH_BOX(&fastadv::loss_gradient_op));
  m.impl("predictions", TORCH_BOX(&fastadv::predictions_op));
  m.impl("keep_nearest", TORCH_BOX(&fastadv::keep_nearest_op));
  m.impl("accept", TORCH_BOX(&fastadv::accept_op));
  m.impl("apgd_step", TORCH_BOX(&fastadv::apgd_step_op));
  m.impl("adam_step", TORCH_BOX(&fastadv::adam_step_op));
  m.impl("fab_step", TORCH_BOX(&fastadv::fab_step_op));
}
