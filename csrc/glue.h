// Torch on one side, kernels.h on the other: checks, layouts, allocation. Written on the libtorch stable ABI and
// compiled once for each device, whose glue.cpp defines FASTADV_DEVICE and DeviceScope (its device guard and stream)
// before including this.
//
// The checks here keep memory safe whoever calls; fastadv/ops.py says the same things more kindly first.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <optional>
#include <string>
#include <vector>

#include "kernels.h"

namespace fastadv {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

Dtype dtype_of(const char* op, const Tensor& t) {
  switch (t.scalar_type()) {
    case ScalarType::Float:
      return Dtype::float32;
    case ScalarType::Double:
      return Dtype::float64;
    case ScalarType::Half:
      return Dtype::float16;
    case ScalarType::BFloat16:
      return Dtype::bfloat16;
    default:
      STD_TORCH_CHECK(false, op, ": samples must be float32, float64, float16 or bfloat16");
  }
}

ScalarType compute_type(const Tensor& t) {
  return t.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

bool same_layout(const Tensor& a, const Tensor& b) {
  for (int64_t d = 0; d < a.dim(); ++d)
    if (a.size(d) > 1 && a.stride(d) != b.stride(d)) return false;
  return true;
}

// True where each sample is one gapless block and the blocks follow each other (contiguous, channels_last, ...).
bool row_dense(const Tensor& t) {
  if (t.numel() == 0) return true;
  std::vector<int64_t> dims;
  for (int64_t d = 1; d < t.dim(); ++d)
    if (t.size(d) > 1) dims.push_back(d);
  int64_t expected = 1;
  while (!dims.empty()) {
    size_t next = 0;
    while (next < dims.size() && t.stride(dims[next]) != expected) ++next;
    if (next == dims.size()) return false;
    expected *= t.size(dims[next]);
    dims.erase(dims.begin() + next);
  }
  return t.size(0) <= 1 || t.stride(0) == expected;
}

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

  // `t` in the layout of `layout`: itself where it has it, a copy where not.
  Tensor samples(const char* name, const Tensor& t, const Tensor& layout) const {
    STD_TORCH_CHECK(t.dim() == samples_.dim(), op_, ": ", name, " has another number of dimensions");
    for (int64_t d = 0; d < t.dim(); ++d)
      STD_TORCH_CHECK(t.size(d) == samples_.size(d), op_, ": ", name, " has another shape");
    STD_TORCH_CHECK(t.scalar_type() == samples_.scalar_type(), op_, ": ", name, " has another dtype");
    same_device(name, t);
    if (same_layout(t, layout)) return t;
    Tensor copy = torch::stable::empty_like(layout);
    torch::stable::copy_(copy, t);
    return copy;
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

  void done(Status status) const { DeviceScope::check(op_, status); }

 private:
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

void linf_step_op(Tensor x_adv, Tensor grad, Tensor x, Tensor step_size, Tensor eps, double lo, double hi,
                  std::optional<Tensor> active) {
  const Call call("linf_step", x_adv);
  in_place(x_adv, [&](const Tensor& out) {
    const Tensor g = call.samples("grad", grad, out), origin = call.samples("x", x, out);
    Tensor keep;
    call.done(linf_step(call.launch(),
                        {out.mutable_data_ptr(), g.const_data_ptr(), origin.const_data_ptr(),
                         call.per_sample("step_size", step_size), call.per_sample("eps", eps), lo, hi,
                         call.mask(active, keep)}));
  });
}

Tensor row_norms_op(Tensor x, std::string norm, std::optional<Tensor> origin) {
  const Call call("row_norms", x);
  const Norm which = norm == "l1" ? Norm::l1 : norm == "l2" ? Norm::l2 : norm == "linf" ? Norm::linf : Norm::rms;
  STD_TORCH_CHECK(which != Norm::rms || norm == "rms", "row_norms: norm must be l1, l2, linf or rms, got ", norm);
  const Tensor dense = row_dense(x) ? x : torch::stable::contiguous(x);
  Tensor base;
  if (origin) base = call.samples("origin", *origin, dense);
  const int64_t size[] = {call.rows()};
  Tensor norms = torch::stable::new_empty(x, {size, 1}, compute_type(x));
  call.done(row_norms(call.launch(), {dense.const_data_ptr(), origin ? base.const_data_ptr() : nullptr,
                                      norms.mutable_data_ptr(), which}));
  return norms;
}

void cutoff_scale_op(Tensor x_adv, Tensor x, Tensor norms, Tensor eps, double rho, std::optional<Tensor> active) {
  const Call call("cutoff_scale", x_adv);
  in_place(x_adv, [&](const Tensor& out) {
    const Tensor origin = call.samples("x", x, out);
    Tensor keep;
    call.done(cutoff_scale(call.launch(), {out.mutable_data_ptr(), origin.const_data_ptr(),
                                           call.per_sample("norms", norms), call.per_sample("eps", eps), rho,
                                           call.mask(active, keep)}));
  });
}

Tensor random_start_op(Tensor x, Tensor ids, Tensor eps, int64_t seed, int64_t restart, std::string law, double lo,
                       double hi, std::optional<Tensor> active) {
  const Call call("random_start", x);
  STD_TORCH_CHECK(law == "uniform" || law == "sign", "random_start: law must be uniform or sign, got ", law);
  // Noise is numbered in logical order, so that it does not depend on the memory format.
  const Tensor dense = torch::stable::contiguous(x);
  Tensor noisy = torch::stable::empty_like(dense), keep_ids, keep_mask;
  call.done(random_start(call.launch(),
                         {noisy.mutable_data_ptr(), dense.const_data_ptr(),
                          call.column<int64_t>("ids", ids, ScalarType::Long, keep_ids), call.per_sample("eps", eps),
                          seed, restart, law == "sign" ? Law::sign : Law::uniform, lo, hi,
                          call.mask(active, keep_mask)}));
  if (x.is_contiguous()) return noisy;
  Tensor out = torch::stable::empty_like(x);
  torch::stable::copy_(out, noisy);
  return out;
}

}  // namespace
}  // namespace fastadv

// The schemas are fastadv/ops.py's; here each device adds its kernels to them.
STABLE_TORCH_LIBRARY_IMPL(fastadv, FASTADV_DEVICE, m) {
  m.impl("linf_step", TORCH_BOX(&fastadv::linf_step_op));
  m.impl("row_norms", TORCH_BOX(&fastadv::row_norms_op));
  m.impl("cutoff_scale", TORCH_BOX(&fastadv::cutoff_scale_op));
  m.impl("random_start", TORCH_BOX(&fastadv::random_start_op));
}
