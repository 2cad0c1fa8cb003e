// Max-pooling by 2x2 windows side by side, and its gradient, which goes to the first of the largest, or to the last NaN.
#pragma once

#include "passes.h"
#include "row.h"

namespace fastadv {

// The entries of some windows, from upper left to lower right.
template <class C>
struct Windows {
  C entry[4][kTile];
};

// Selects by masks of bits: what a compiler makes of nested conditions are jumps.
template <class C>
struct Entry {
  using Bits = std::conditional_t<sizeof(C) == 8, int64_t, int32_t>;
  Bits bits;

  FASTADV_FN explicit Entry(C value) : bits(bits_as<Bits>(value)) {}
  FASTADV_FN C value() const { return bits_as<C>(bits); }

  // Takes what is later in the window if that is larger, and says so: all ones or zero.
  FASTADV_FN Bits take(Entry next) {
    const Bits larger = -static_cast<Bits>((next.value() > value()) | (next.value() != next.value()));
    bits = (bits & ~larger) | (next.bits & larger);
    return larger;
  }
};

// Windows are numbered in the order in which their results lie. Calls copy(window, upper, lower, apart, right, count) for
// runs of them, `first` to `last`: `count` windows from number `window` on have their left entries `apart` from one
// another, from `upper` and `lower` on, and their right ones `right` from those.
template <class F>
FASTADV_FN void runs(const Images& x, int64_t first, int64_t last, F copy) {
  const int64_t inner = x.channels_last ? x.channels : 1, line = x.width * inner, made = x.width / 2 * inner;
  for (int64_t window = first, count; window < last; window += count) {
    const int64_t row = window / made, column = window % made, high = x.height / 2;
    const int64_t begin = (row / high * x.height + row % high * 2) * line;
    if (x.channels_last) {
      const int64_t channel = column % inner, upper = begin + 2 * column - channel;
      count = std::min(inner - channel, last - window);
      copy(window, upper, upper + line, std::integral_constant<int64_t, 1>{}, inner, count);
    } else {
      count = std::min(made - column, last - window);
      const int64_t upper = begin + 2 * column;
      copy(window, upper, upper + line, std::integral_constant<int64_t, 2>{}, int64_t(1), count);
    }
  }
}

// Calls f(i) for 0 to count, as few as a line has: in vectors of 16, then 8, then 4.
template <class F>
FASTADV_FN void short_loop(int64_t count, F f) {
  int64_t i = 0;
  const auto by = [&](auto vector) __attribute__((always_inline)) {
    constexpr int64_t kVector = decltype(vector)::value;
    for (; i + kVector <= count; i += kVector) {
#pragma omp simd
      for (int64_t j = 0; j < kVector; ++j) f(i + j);
    }
  };
  by(std::integral_constant<int64_t, 16>{});
  by(std::integral_constant<int64_t, 8>{});
  by(std::integral_constant<int64_t, 4>{});
  for (; i < count; ++i) f(i);
}

// Calls f(windows, first, last) for windows `begin` to `end`, up to kTile at a time.
template <class T, class F>
FASTADV_FN void each_windows(const Images& x, const T* from, int64_t begin, int64_t end, F f) {
  using C = compute_t<T>;
  Windows<C> windows;
  for (int64_t first = begin; first < end; first += kTile) {
    const int64_t last = std::min(end, first + kTile);
    runs(x, first, last, [&](int64_t window, int64_t upper, int64_t lower, auto apart, int64_t right, int64_t count)
         __attribute__((always_inline)) {
      constexpr int64_t kApart = decltype(apart)::value;
      for (int k = 0; k < 4; k += 2) {
        const T* const line = from + (k ? lower : upper);
        C *const lefts = windows.entry[k] + window - first, *const rights = windows.entry[k + 1] + window - first;
        short_loop(count, [=](int64_t i) __attribute__((always_inline)) {
          lefts[i] = load(line[kApart * i]);
          rights[i] = load(line[kApart * i + (kApart == 2 ? 1 : right)]);
        });
      }
    });
    f(windows, first, last);
  }
}

template <class T>
FASTADV_CLONES void max_pool_windows(const Images& x, const MaxPoolArgs& a, int64_t begin, int64_t end) {
  using C = compute_t<T>;
  T* const to = static_cast<T*>(a.out);
  each_windows(x, static_cast<const T*>(a.x), begin, end, [=](const Windows<C>& windows, int64_t first, int64_t last)
               __attribute__((always_inline)) {
#pragma omp simd
    for (int64_t i = 0; i < last - first; ++i) {
      Entry<C> top(windows.entry[0][i]);
      for (int k = 1; k < 4; ++k) top.take(Entry<C>(windows.entry[k][i]));
      to[first + i] = narrow<T>(top.value());
    }
  });
}

template <class T>
FASTADV_CLONES void max_pool_backward_windows(const Images& x, const MaxPoolBackwardArgs& a, int64_t begin, int64_t end) {
  using C = compute_t<T>;
  using Bits = typename Entry<C>::Bits;
  const T* const grad = static_cast<const T*>(a.grad);
  T* const to = static_cast<T*>(a.out);
  each_windows(x, static_cast<const T*>(a.x), begin, end, [=](Windows<C>& windows, int64_t first, int64_t last)
               __attribute__((always_inline)) {
#pragma omp simd
    for (int64_t i = 0; i < last - first; ++i) {
      Entry<C> top(windows.entry[0][i]);
      Bits at[4] = {-1, 0, 0, 0};
      for (int k = 1; k < 4; ++k) at[k] = top.take(Entry<C>(windows.entry[k][i]));
      Bits left = bits_as<Bits>(load(grad[first + i]));
      for (int k = 3; k >= 0; --k) {
        windows.entry[k][i] = bits_as<C>(left & at[k]);
        left &= ~at[k];
      }
    }
    runs(x, first, last, [&](int64_t window, int64_t upper, int64_t lower, auto apart, int64_t right, int64_t count)
         __attribute__((always_inline)) {
      constexpr int64_t kApart = decltype(apart)::value;
      for (int k = 0; k < 4; k += 2) {
        T* const line = to + (k ? lower : upper);
        const C *const lefts = windows.entry[k] + window - first, *const rights = windows.entry[k + 1] + window - first;
        short_loop(count, [=](int64_t i) __attribute__((always_inline)) {
          line[kApart * i] = narrow<T>(lefts[i]);
          line[kApart * i + (kApart == 2 ? 1 : right)] = narrow<T>(rights[i]);
        });
      }
    });
  });
}

Status max_pool(Dtype dtype, const Images& x, const MaxPoolArgs& args) {
  return dispatch(dtype, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    return for_items(x.samples * x.channels * (x.height / 2) * (x.width / 2), 4,
                     [&](int64_t begin, int64_t end) { max_pool_windows<T>(x, args, begin, end); });
  });
}

Status max_pool_backward(Dtype dtype, const Images& x, const MaxPoolBackwardArgs& args) {
  return dispatch(dtype, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    if (x.height % 2 || x.width % 2)
      std::memset(args.out, 0, x.samples * x.channels * x.height * x.width * sizeof(T));
    return for_items(x.samples * x.channels * (x.height / 2) * (x.width / 2), 4,
                     [&](int64_t begin, int64_t end) { max_pool_backward_windows<T>(x, args, begin, end); });
  });
}

}  // namespace fastadv
