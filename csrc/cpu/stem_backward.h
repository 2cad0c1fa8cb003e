// The gradient of a convolution's input where that has few channels: PyTorch makes it by way of all weights' products.
//
// out[y][x] = sum over channels k of grad, and i, j of the kernel, of weight[k][i][j] * grad[k][y + p - i][x + p - j]: a
// convolution with the kernel turned round. Lines of `grad` lie in a thread's own memory, with zeros where the kernel
// reaches beyond them, and so do the sums, which a line of the kernel adds to at a time.
#pragma once

#include "passes.h"
#include "row.h"

namespace fastadv {

constexpr int64_t kLanes = 16;  // numbers of a line at a time
constexpr int64_t kPlanes = 8;  // channels of grad at a time, which the first cache holds

// A sample's lines with zeros around them.
struct Padded {
  int64_t above, left, height, width;
  Padded(const Images& out, const StemBackwardArgs& a)
      : above(a.kernel_height - 1 - a.padding_height),
        left(a.kernel_width - 1 - a.padding_width),
        height(out.height + a.kernel_height - 1),
        width((out.width + kLanes - 1) / kLanes * kLanes + a.kernel_width - 1) {}
};

// Adds to `sums` what a line of the kernel, `taps` long, makes of lines of grad.
template <int Channels, int Taps, class C>
FASTADV_FN void add_line(const C* lines, int64_t width, const C* weights, C* sums, int64_t height, int64_t wide) {
  C weight[Taps * Channels];
  for (int t = 0; t < Taps * Channels; ++t) weight[t] = weights[t];
  for (int64_t y = 0; y < height; ++y) {
    for (int64_t x = 0; x < wide; x += kLanes) {
      const C* const line = lines + y * width + x;
      C* const sum = sums + y * wide + x;
#pragma omp simd
      for (int64_t i = 0; i < kLanes; ++i) {
        for (int c = 0; c < Channels; ++c) {
          C total = sum[c * height * wide + i];
          for (int t = 0; t < Taps; ++t) total += weight[t * Channels + c] * line[t + i];
          sum[c * height * wide + i] = total;
        }
      }
    }
  }
}

template <class T, int Channels>
FASTADV_CLONES void stem_backward_samples(const Images& grad, const Images& out, const StemBackwardArgs& a,
                                          int64_t first, int64_t last, compute_t<T>* scratch) {
  using C = compute_t<T>;
  const Padded padded(out, a);
  const int64_t wide = padded.width - a.kernel_width + 1, taps = a.kernel_height * a.kernel_width;
  const int64_t plane = padded.height * padded.width;
  C *const lines = scratch, *const sums = lines + kPlanes * plane, *const weights = sums + Channels * out.height * wide;
  for (int64_t k = 0; k < grad.channels; ++k)
    for (int64_t c = 0; c < Channels; ++c)
      for (int64_t tap = 0; tap < taps; ++tap)  // turned round, and a tap's channels together
        weights[(k * taps + taps - 1 - tap) * Channels + c] =
            load(static_cast<const T*>(a.weight)[(k * Channels + c) * taps + tap]);
  std::fill(lines, sums, C(0));

  const int64_t pixels = grad.height * grad.width;
  for (int64_t sample = first; sample < last; ++sample) {
    std::fill(sums, weights, C(0));
    const T* const slopes = static_cast<const T*>(a.grad) + sample * grad.channels * pixels;
    for (int64_t k0 = 0; k0 < grad.channels; k0 += kPlanes) {
      const int64_t planes = std::min(kPlanes, grad.channels - k0);
      for (int64_t y = 0; y < grad.height; ++y) {
        C* const line = lines + (y + padded.above) * padded.width + padded.left;
        if (grad.channels_last) {
          const T* const from = slopes + y * grad.width * grad.channels + k0;
          for (int64_t x = 0; x < grad.width; ++x)
            for (int64_t k = 0; k < planes; ++k) line[k * plane + x] = load(from[x * grad.channels + k]);
        } else {
          for (int64_t k = 0; k < planes; ++k) {
            const T* const from = slopes + (k0 + k) * pixels + y * grad.width;
#pragma omp simd
            for (int64_t x = 0; x < grad.width; ++x) line[k * plane + x] = load(from[x]);
          }
        }
      }
      for (int64_t k = 0; k < planes; ++k) {
        for (int64_t i = 0; i < a.kernel_height; ++i) {
          const C* const from = lines + k * plane + i * padded.width;
          const C* const weight = weights + ((k0 + k) * taps + i * a.kernel_width) * Channels;
          int64_t j = 0;
          const auto add = [&](auto together) __attribute__((always_inline)) {
            constexpr int kTaps = decltype(together)::value;
            for (; j + kTaps <= a.kernel_width; j += kTaps)
              add_line<Channels, kTaps>(from + j, padded.width, weight + j * Channels, sums, out.height, wide);
          };
          add(std::integral_constant<int, 5>{});
          add(std::integral_constant<int, 3>{});
          add(std::integral_constant<int, 1>{});
        }
      }
    }
    T* const to = static_cast<T*>(a.out) + sample * Channels * out.height * out.width;
    const int64_t step = out.channels_last ? Channels : 1;
    for (int64_t c = 0; c < Channels; ++c)
      for (int64_t y = 0; y < out.height; ++y) {
        T* const row = to + (out.channels_last ? y * out.width * Channels + c : (c * out.height + y) * out.width);
        for (int64_t x = 0; x < out.width; ++x) row[x * step] = narrow<T>(sums[(c * out.height + y) * wide + x]);
      }
  }
}

template <int Channels>
Status stem_backward_of(Dtype dtype, const Images& grad, const Images& out, const StemBackwardArgs& args) {
  return dispatch(dtype, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    using C = compute_t<T>;
    const Padded padded(out, args);
    const int64_t taps = args.kernel_height * args.kernel_width;
    const int64_t room = (kPlanes + Channels) * padded.height * padded.width + grad.channels * taps * Channels;
    return for_items<C>(out.samples, grad.channels * grad.height * grad.width, room,
                        [&](int64_t first, int64_t last, C* scratch) {
                          stem_backward_samples<T, Channels>(grad, out, args, first, last, scratch);
                        });
  });
}

Status stem_backward(Dtype dtype, const Images& grad, const Images& out, const StemBackwardArgs& args) {
  if (out.channels == 1) return stem_backward_of<1>(dtype, grad, out, args);
  if (out.channels == 2) return stem_backward_of<2>(dtype, grad, out, args);
  return stem_backward_of<3>(dtype, grad, out, args);
}

}  // namespace fastadv
