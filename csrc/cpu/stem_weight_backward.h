// The gradient of a convolution's weights where its input has few channels: PyTorch fills vectors of channels with it.
//
// out[k][c][i][j] = sum over samples, y and x of grad[k][y][x] * input[c][y + i - p][x + j - p]. Lines of both lie in a
// thread's own memory, with zeros behind them. Sums are of a fixed number of samples first: they do not depend on how
// many threads there are.
#pragma once

#include "passes.h"
#include "row.h"

namespace fastadv {

constexpr int64_t kStemSamples = 8;  // that are summed up by one thread
constexpr int64_t kBytes = 32;       // of a vector, on every processor

// The length of a line of grad, in whole vectors.
template <class C>
FASTADV_FN int64_t whole_vectors(const Images& grad) {
  constexpr int64_t kEntries = kBytes / sizeof(C);
  return (grad.width + kEntries - 1) / kEntries * kEntries;
}

// Adds to `sums`, `apart` from one channel of grad to the next, what `Slopes` channels of grad make of a line of the
// kernel, `Taps` long.
template <int Slopes, int Taps, class C>
FASTADV_FN void add_products(const C* slopes, const C* lines, int64_t width, int64_t height, int64_t wide, double* sums,
                             int64_t apart) {
  typedef C Vector __attribute__((vector_size(kBytes)));
  constexpr int64_t kEntries = kBytes / sizeof(C);
  Vector total[Slopes][Taps] = {};
  for (int64_t y = 0; y < height; ++y) {
    for (int64_t x = 0; x < wide; x += kEntries) {
      Vector slope[Slopes];
      for (int k = 0; k < Slopes; ++k) std::memcpy(&slope[k], slopes + (k * height + y) * wide + x, kBytes);
      for (int t = 0; t < Taps; ++t) {
        Vector line;
        std::memcpy(&line, lines + y * width + x + t, kBytes);
        for (int k = 0; k < Slopes; ++k) total[k][t] += slope[k] * line;
      }
    }
  }
  for (int k = 0; k < Slopes; ++k) {
    for (int t = 0; t < Taps; ++t) {
      double sum = 0;
      for (int64_t i = 0; i < kEntries; ++i) sum += total[k][t][i];
      sums[k * apart + t] += sum;
    }
  }
}

// Copies channel `channel` of a sample's lines to where they are `width` apart.
template <class T>
FASTADV_FN void copy_lines(compute_t<T>* to, int64_t width, const T* sample, const Images& of, int64_t channel) {
  const int64_t step = of.channels_last ? of.channels : 1;
  const T* const from = sample + (of.channels_last ? channel : channel * of.height * of.width);
  for (int64_t y = 0; y < of.height; ++y)
    for (int64_t x = 0; x < of.width; ++x) to[y * width + x] = load(from[(y * of.width + x) * step]);
}

template <class T>
FASTADV_CLONES void stem_weight_backward_samples(const Images& grad, const Images& x, const StemWeightBackwardArgs& a,
                                                 int64_t first, int64_t last, double* sums, compute_t<T>* scratch) {
  using C = compute_t<T>;
  const int64_t wide = whole_vectors<C>(grad), width = wide + a.kernel_width - 1;
  const int64_t plane = (grad.height + a.kernel_height - 1) * width, slopes_plane = grad.height * wide;
  const int64_t taps = a.kernel_height * a.kernel_width, apart = x.channels * taps;
  C *const lines = scratch, *const slopes = lines + x.channels * plane;
  std::fill(lines, slopes + 2 * slopes_plane, C(0));
  for (int64_t sample = first; sample < last; ++sample) {
    const T* const from = static_cast<const T*>(a.x) + sample * x.channels * x.height * x.width;
    for (int64_t c = 0; c < x.channels; ++c)
      copy_lines(lines + c * plane + a.padding_height * width + a.padding_width, width, from, x, c);
    const T* const of = static_cast<const T*>(a.grad) + sample * grad.channels * grad.height * grad.width;
    for (int64_t k = 0; k < grad.channels; k += 2) {
      const bool two = k + 1 < grad.channels;
      for (int64_t i = 0; i <= two; ++i) copy_lines(slopes + i * slopes_plane, wide, of, grad, k + i);
      for (int64_t c = 0; c < x.channels; ++c) {
        for (int64_t i = 0; i < a.kernel_height; ++i) {
          int64_t j = 0;
          const auto add = [&](auto together) __attribute__((always_inline)) {
            constexpr int kTaps = decltype(together)::value;
            for (; j + kTaps <= a.kernel_width; j += kTaps) {
              const C* const line = lines + c * plane + i * width + j;
              double* const sum = sums + k * apart + c * taps + i * a.kernel_width + j;
              if (two)
                add_products<2, kTaps>(slopes, line, width, grad.height, wide, sum, apart);
              else
                add_products<1, kTaps>(slopes, line, width, grad.height, wide, sum, apart);
            }
          };
          add(std::integral_constant<int, 5>{});
          add(std::integral_constant<int, 3>{});
          add(std::integral_constant<int, 1>{});
        }
      }
    }
  }
}

Status stem_weight_backward(Dtype dtype, const Images& grad, const Images& x, const StemWeightBackwardArgs& args) {
  return dispatch(dtype, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    using C = compute_t<T>;
    const int64_t weights = grad.channels * x.channels * args.kernel_height * args.kernel_width;
    const int64_t parts = (grad.samples + kStemSamples - 1) / kStemSamples;
    const int64_t wide = whole_vectors<C>(grad);
    const int64_t room = x.channels * (grad.height + args.kernel_height - 1) * (wide + args.kernel_width - 1) +
                         2 * grad.height * wide;
    std::vector<double> sums(std::max<int64_t>(1, parts) * weights);
    const Status status = for_items<C>(
        parts, kStemSamples * grad.channels * grad.height * grad.width, room, [&](int64_t begin, int64_t end, C* scratch) {
          for (int64_t part = begin; part < end; ++part)
            stem_weight_backward_samples<T>(grad, x, args, part * kStemSamples,
                                            std::min(grad.samples, (part + 1) * kStemSamples),
                                            sums.data() + part * weights, scratch);
        });
    for (int64_t i = 0; i < weights; ++i) {
      double sum = 0;
      for (int64_t part = 0; part < parts; ++part) sum += sums[part * weights + i];
      static_cast<T*>(args.out)[i] = narrow<T>(static_cast<C>(sum));
    }
    return status;
  });
}

}  // namespace fastadv
