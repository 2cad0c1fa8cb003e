// Max-pooling by 2x2 windows side by side, and its gradient, which goes to the first of the largest, or to the last NaN.
//
// Some lines of windows at a time, by way of a thread's own memory, where vectors may reach beyond the end of a line:
// into what is written later.
#pragma once

#include "passes.h"
#include "row.h"

namespace fastadv {

constexpr int64_t kVector = 16;  // windows at a time

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

// The lines that windows lie in: of a channel's pixels, or of pixels with all their channels. Two of x make one.
struct PooledLines {
  int64_t channels, height, wide, length, made;  // of a pixel, of a plane; windows, numbers of x, of what x becomes

  explicit PooledLines(const Images& x)
      : channels(x.channels_last ? x.channels : 1),
        height(x.height),
        wide(x.width / 2),
        length(x.width * channels),
        made(wide * channels) {}

  static int64_t count(const Images& x) {  // of windows
    return x.width < 2 ? 0 : x.samples * (x.channels_last ? x.channels > 0 : x.channels) * (x.height / 2);
  }

  // Calls f(line, at, some) for `some` lines of windows at a time from number `line` on, whose entries follow each other
  // from `at` on.
  template <class F>
  FASTADV_FN void each(int64_t begin, int64_t end, F f) const {
    const int64_t high = height / 2;
    for (int64_t line = begin, some; line < end; line += some) {
      some = std::min(end - line, height % 2 ? high - line % high : end - line);
      some = std::min(some, together());
      f(line, (line / high * height + line % high * 2) * length, some);
    }
  }
  FASTADV_FN int64_t together() const { return std::max<int64_t>(1, kTile / std::max<int64_t>(1, length)); }
  FASTADV_FN int64_t room() const { return 2 * together() * length + 2 * kVector; }  // for as many, and a vector beyond

  // Calls block(at, apart, right, out) for every kVector windows of a line: the upper left entry of the first, how far
  // the next one is, how far the right ones are from the left, and the place of what the first becomes.
  template <class F>
  FASTADV_FN void blocks(F block) const {
    if (channels == 1) {
      for (int64_t i = 0; i < wide; i += kVector) block(2 * i, std::integral_constant<int64_t, 2>{}, int64_t(1), i);
      return;
    }
    for (int64_t pixel = 0; pixel < wide; ++pixel)
      for (int64_t c = 0; c < channels; c += kVector)
        block(2 * pixel * channels + c, std::integral_constant<int64_t, 1>{}, channels, pixel * channels + c);
  }

  // Writes a line from its left and its right entries.
  template <class C>
  FASTADV_FN void spread(C* line, const C* lefts, const C* rights) const {
    if (channels == 1) {
      for (int64_t first = 0; first < wide; first += kVector) {
#pragma omp simd
        for (int64_t i = first; i < first + kVector; ++i) {
          line[2 * i] = lefts[i];
          line[2 * i + 1] = rights[i];
        }
      }
      return;
    }
    for (int64_t pixel = 0; pixel < 2 * wide; ++pixel) {
      C* const to = line + pixel * channels;
      const C* const from = (pixel % 2 ? rights : lefts) + pixel / 2 * channels;
      for (int64_t c = 0; c < channels; c += kVector) {
#pragma omp simd
        for (int64_t i = 0; i < kVector; ++i) to[c + i] = from[c + i];
      }
    }
  }
};

template <class T>
FASTADV_FN void load_lines(compute_t<T>* to, const void* from, int64_t at, int64_t count) {
  const T* const line = static_cast<const T*>(from) + at;
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) to[i] = load(line[i]);
}

template <class T>
FASTADV_FN void store_lines(void* to, int64_t at, const compute_t<T>* from, int64_t count) {
  T* const line = static_cast<T*>(to) + at;
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) line[i] = narrow<T>(from[i]);
}

template <class T>
FASTADV_CLONES void max_pool_lines(const PooledLines& x, const MaxPoolArgs& a, int64_t begin, int64_t end,
                                   compute_t<T>* scratch) {
  using C = compute_t<T>;
  C *const from = scratch, *const made = from + x.room();
  x.each(begin, end, [=](int64_t first, int64_t start, int64_t some) __attribute__((always_inline)) {
    load_lines<T>(from, a.x, start, 2 * some * x.length);
    for (int64_t line = 0; line < some; ++line) {
      const C *const upper = from + 2 * line * x.length, *const lower = upper + x.length;
      C* const into = made + line * x.made;
      x.blocks([=](int64_t at, auto apart, int64_t to_right, int64_t out) __attribute__((always_inline)) {
        constexpr int64_t kApart = decltype(apart)::value;
        const int64_t right = kApart == 2 ? 1 : to_right;
#pragma omp simd
        for (int64_t i = 0; i < kVector; ++i) {
          const int64_t left = at + kApart * i;
          Entry<C> top(upper[left]);
          top.take(Entry<C>(upper[left + right]));
          top.take(Entry<C>(lower[left]));
          top.take(Entry<C>(lower[left + right]));
          into[out + i] = top.value();
        }
      });
    }
    store_lines<T>(a.out, first * x.made, made, some * x.made);
  });
}

template <class T>
FASTADV_CLONES void max_pool_backward_lines(const PooledLines& x, const MaxPoolBackwardArgs& a, int64_t begin,
                                            int64_t end, compute_t<T>* scratch) {
  using C = compute_t<T>;
  using Bits = typename Entry<C>::Bits;
  const int64_t room = x.room();
  C *const from = scratch, *const to = from + room, *const grad = to + room, *const passed = grad + room;
  const int64_t each = x.made + kVector;
  x.each(begin, end, [=](int64_t first, int64_t start, int64_t some) __attribute__((always_inline)) {
    load_lines<T>(from, a.x, start, 2 * some * x.length);
    load_lines<T>(grad, a.grad, first * x.made, some * x.made);
    for (int64_t line = 0; line < some; ++line) {
      const C *const upper = from + 2 * line * x.length, *const lower = upper + x.length, *const g = grad + line * x.made;
      x.blocks([=](int64_t at, auto apart, int64_t to_right, int64_t out) __attribute__((always_inline)) {
        constexpr int64_t kApart = decltype(apart)::value;
        const int64_t right = kApart == 2 ? 1 : to_right;
        C* const into = passed + out;
#pragma omp simd
        for (int64_t i = 0; i < kVector; ++i) {
          const int64_t left = at + kApart * i;
          Entry<C> top(upper[left]);
          const Bits second = top.take(Entry<C>(upper[left + right])), third = top.take(Entry<C>(lower[left])),
                     fourth = top.take(Entry<C>(lower[left + right]));
          Bits rest = bits_as<Bits>(g[out + i]);
          into[3 * each + i] = bits_as<C>(rest & fourth);
          rest &= ~fourth;
          into[2 * each + i] = bits_as<C>(rest & third);
          rest &= ~third;
          into[each + i] = bits_as<C>(rest & second);
          into[i] = bits_as<C>(rest & ~second);
        }
      });
      for (int k = 0; k < 4; k += 2) {
        C* const whole = to + (2 * line + k / 2) * x.length;
        const C *const lefts = passed + k * each, *const rights = lefts + each;
        x.spread(whole, lefts, rights);
        std::fill(whole + 2 * x.made, whole + x.length, C(0));  // the column that an odd width leaves over
      }
    }
    store_lines<T>(a.out, start, to, 2 * some * x.length);
  });
}

Status max_pool(Dtype dtype, const Images& x, const MaxPoolArgs& args) {
  return dispatch(dtype, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    const PooledLines lines(x);
    return for_items<compute_t<T>>(PooledLines::count(x), 2 * lines.length, 3 * lines.room(),
                                   [&](int64_t begin, int64_t end, compute_t<T>* scratch) {
                                     max_pool_lines<T>(lines, args, begin, end, scratch);
                                   });
  });
}

Status max_pool_backward(Dtype dtype, const Images& x, const MaxPoolBackwardArgs& args) {
  return dispatch(dtype, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    const PooledLines lines(x);
    if (x.height % 2 || x.width < 2) std::memset(args.out, 0, x.samples * x.channels * x.height * x.width * sizeof(T));
    return for_items<compute_t<T>>(PooledLines::count(x), 2 * lines.length, 6 * lines.room(),
                                   [&](int64_t begin, int64_t end, compute_t<T>* scratch) {
                                     max_pool_backward_lines<T>(lines, args, begin, end, scratch);
                                   });
  });
}

}  // namespace fastadv
