// Rows and loops on the CPU: multiversioned vector loops, threads over samples, sums in double.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <vector>

#include "../loops.h"

namespace fastadv {

// Several instruction sets in one binary, chosen when the library is loaded. ThreadSanitizer starts too late for
// the resolver, other compilers and other processors build the loop once with the flags they are given.
#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__) && !defined(__SANITIZE_THREAD__)
#if __GNUC__ >= 12
#define FASTADV_TARGETS "arch=x86-64-v4", "arch=x86-64-v3", "default"
#else  // which knows no levels
#define FASTADV_TARGETS "avx512f", "avx2", "default"
#endif
#define FASTADV_CLONES __attribute__((target_clones(FASTADV_TARGETS)))
#else
#define FASTADV_CLONES
#endif

constexpr int64_t kGrain = 1 << 15;  // elements a thread takes at least: below it, waking a thread costs more,
constexpr int64_t kEasyGrain = 1 << 17;  // and so it does below this where an element takes no more than a few operations
constexpr int64_t kTile = 512;       // elements that a computed source makes at a time

// `count` elements of a source, from number `at` on, ready to be indexed from 0.
template <class S>
struct Tile;

template <class U>
struct Tile<const U*> {
  const U* from;
  FASTADV_FN Tile(int64_t base, const U* source, int64_t at, int64_t) : from(source + base + at) {}
  FASTADV_FN compute_t<U> operator[](int64_t i) const { return load(from[i]); }
};

template <>
struct Tile<Indices> {
  int64_t first;
  FASTADV_FN Tile(int64_t, Indices, int64_t at, int64_t) : first(at) {}
  FASTADV_FN int64_t operator[](int64_t i) const { return first + i; }
};

template <class Draw>
struct Tile<Fours<Draw>> {
  uint32_t words[kTile];
  FASTADV_FN Tile(int64_t, const Fours<Draw>& source, int64_t at, int64_t count) {
    uint32_t drawn[4][kTile / 4];  // one array a word: the loop over blocks vectorises
    const int64_t blocks = (count + 3) / 4;
#pragma omp simd
    for (int64_t i = 0; i < blocks; ++i) {
      const Words four = source.draw(at / 4 + i);
      drawn[0][i] = four.word[0];
      drawn[1][i] = four.word[1];
      drawn[2][i] = four.word[2];
      drawn[3][i] = four.word[3];
    }
#pragma omp simd
    for (int64_t i = 0; i < blocks; ++i) {
      for (int k = 0; k < 4; ++k) words[4 * i + k] = drawn[k][i];
    }
  }
  FASTADV_FN uint32_t operator[](int64_t i) const { return words[i]; }
};

// A held row lies in the thread's own memory.
template <class C>
struct Held {
  const C* values;
};

template <class C>
struct Tile<Held<C>> {
  const C* from;
  FASTADV_FN Tile(int64_t, Held<C> source, int64_t at, int64_t) : from(source.values + at) {}
  FASTADV_FN C operator[](int64_t i) const { return from[i]; }
};

template <class S>
struct Computed : std::false_type {};
template <class Draw>
struct Computed<Fours<Draw>> : std::true_type {};

template <class T>
struct Row {
  using C = compute_t<T>;
  using Number = int64_t;

  int64_t index;       // which sample
  int64_t begin, end;  // its elements that this body is to handle
  int64_t cols;
  C* scratch;  // room for held rows, one after the other

  template <class U, class F, class... S>
  FASTADV_FN void map(U* out, F f, const S&... sources) const {
    U* const to = out + index * cols;
    tiles([=](int64_t at, int64_t count, const auto&... in) __attribute__((always_inline)) {
#pragma omp simd
      for (int64_t i = 0; i < count; ++i) to[at + i] = narrow<U>(f(in[i]...));
    }, sources...);
  }

  template <class U, class F, class Bad, class... S>
  FASTADV_FN bool map_any(U* out, F f, Bad bad, const S&... sources) const {
    U* const to = out + index * cols;
    int found = 0;
    tiles([&](int64_t at, int64_t count, const auto&... in) __attribute__((always_inline)) {
      int part = 0;
#pragma omp simd reduction(| : part)
      for (int64_t i = 0; i < count; ++i) {
        part |= bad(in[i]...) ? 1 : 0;
        to[at + i] = narrow<U>(f(in[i]...));
      }
      found |= part;
    }, sources...);
    return found;
  }

  template <class F, class... S>
  FASTADV_FN double sum(F f, const S&... sources) const {
    double total = 0;
    tiles([&](int64_t, int64_t count, const auto&... in) __attribute__((always_inline)) {
      double part = 0;
#pragma omp simd reduction(+ : part)
      for (int64_t i = 0; i < count; ++i) part += static_cast<double>(f(in[i]...));
      total += part;
    }, sources...);
    return total;
  }

  template <class F, class... S>
  FASTADV_FN Two sum2(F f, const S&... sources) const {
    Two total{0, 0};
    tiles([&](int64_t, int64_t count, const auto&... in) __attribute__((always_inline)) {
      double a = 0, b = 0;
#pragma omp simd reduction(+ : a, b)
      for (int64_t i = 0; i < count; ++i) {
        const Two value = f(in[i]...);
        a += value.a;
        b += value.b;
      }
      total.a += a;
      total.b += b;
    }, sources...);
    return total;
  }

  // Maximum of non-negative values; NaN as soon as one value is NaN.
  template <class F, class... S>
  FASTADV_FN double max(F f, const S&... sources) const {
    C top = 0;
    int nan = 0;
    tiles([&](int64_t, int64_t count, const auto&... in) __attribute__((always_inline)) {
      C part = 0;
      int broken = 0;
#pragma omp simd reduction(max : part) reduction(| : broken)
      for (int64_t i = 0; i < count; ++i) {
        const C value = f(in[i]...);
        part = value > part ? value : part;
        broken |= value != value;
      }
      top = part > top ? part : top;
      nan |= broken;
    }, sources...);
    return nan ? std::numeric_limits<double>::quiet_NaN() : static_cast<double>(top);
  }

  template <class F, class... S>
  FASTADV_FN int64_t count(F f, const S&... sources) const {
    int64_t total = 0;
    tiles([&](int64_t, int64_t count, const auto&... in) __attribute__((always_inline)) {
      int32_t part = 0;
#pragma omp simd reduction(+ : part)
      for (int64_t i = 0; i < count; ++i) part += f(in[i]...) ? 1 : 0;
      total += part;
    }, sources...);
    return total;
  }

  // NaN counts as larger than anything, as in torch.argmax.
  template <class F, class... S>
  FASTADV_FN int64_t argmax(F f, const S&... sources) const {
    int64_t best = -1;
    C top = 0;
    tiles([&](int64_t at, int64_t count, const auto&... in) __attribute__((always_inline)) {
      for (int64_t i = 0; i < count; ++i) {
        const C value = f(in[i]...);
        if (best >= 0 && (top != top || !(value > top || value != value))) continue;
        best = at + i;
        top = value;
      }
    }, sources...);
    return best;
  }

  // Bit by bit, from the highest: non-negative floats are ordered like their bit patterns.
  template <class F, class... S>
  FASTADV_FN Reached<C> reached(int64_t least, F f, const S&... sources) const {
    using Bits = std::conditional_t<sizeof(C) == 8, uint64_t, uint32_t>;
    Bits found = 0;
    int64_t reach = cols;
    for (int bit = int(sizeof(C)) * 8 - 2; bit >= 0 && reach != least; --bit) {
      const Bits tried = found | Bits(1) << bit;
      const C candidate = bits_as<C>(tried);
      const int64_t reaching = count([=](auto... v) { return f(v...) >= candidate; }, sources...);
      if (reaching < least) continue;
      found = tried;
      reach = reaching;
    }
    return {bits_as<C>(found), reach};
  }

  template <class S>
  FASTADV_FN S ahead(S source) const {
    return source;
  }

  template <int Slot, class F, class... S>
  FASTADV_FN Held<C> hold(F f, const S&... sources) const {
    C* const values = scratch + Slot * cols;
    tiles([=](int64_t at, int64_t count, const auto&... in) __attribute__((always_inline)) {
#pragma omp simd
      for (int64_t i = 0; i < count; ++i) values[at + i] = f(in[i]...);
    }, sources...);
    return {values};
  }

  template <int Slot, class F, class M, class... S>
  FASTADV_FN Summed<Held<C>> hold_sum(F f, M measure, const S&... sources) const {
    C* const values = scratch + Slot * cols;
    double total = 0;
    tiles([&](int64_t at, int64_t count, const auto&... in) __attribute__((always_inline)) {
      double part = 0;
#pragma omp simd reduction(+ : part)
      for (int64_t i = 0; i < count; ++i) {
        const C value = f(in[i]...);
        values[at + i] = value;
        part += static_cast<double>(measure(value));
      }
      total += part;
    }, sources...);
    return {{values}, total};
  }

  template <class U>
  FASTADV_FN void store(U* out, double value) const {
    out[index] = static_cast<U>(value);
  }
  template <class U>
  FASTADV_FN void store(U* out, int64_t value) const {
    out[index] = static_cast<U>(value);
  }

  // Threads may share a row in for_each.
  FASTADV_FN void flag(bool* out) const {
    if (out) __atomic_store_n(out + index, true, __ATOMIC_RELAXED);
  }

  FASTADV_FN void sync() const {}

 private:
  // Calls f(at, count, tiles...) for all elements, in pieces where a source computes them.
  template <class F, class... S>
  FASTADV_FN void tiles(F f, const S&... sources) const {
    const int64_t size = (Computed<S>::value || ...) ? kTile : end - begin;
    for (int64_t at = begin; at < end; at += size) {
      const int64_t count = std::min(size, end - at);
      f(at, count, Tile<S>(index * cols, sources, at, count)...);
    }
  }
};

template <class T, class Body>
FASTADV_FN Body prepared(Body body, int64_t rows) {
  if constexpr (Prepares<Body>::value) body.prepare(Row<T>{0, 0, rows, rows, nullptr});
  return body;
}

// Elements [begin, end) of the flat array, row by row.
template <class T, class Body>
FASTADV_CLONES void run(const Body& given, int64_t rows, int64_t begin, int64_t end, int64_t cols, compute_t<T>* scratch) {
  const Body body = prepared<T>(given, rows);
  while (begin < end) {
    const int64_t index = begin / cols, first = begin % cols;
    const int64_t last = std::min(cols, first + end - begin);
    body(Row<T>{index, first, last, cols, scratch});
    begin += last - first;
  }
}

template <template <class> class Body, class Args>
Status for_each(const Launch& launch, const Args& args) {
  if (launch.cols == 0) return kOk;
  return dispatch(launch.dtype, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    const Body<T> body{args};
    torch::stable::parallel_for(0, launch.rows * launch.cols, kEasyGrain, [&](int64_t begin, int64_t end) {
      run<T>(body, launch.rows, begin, end, launch.cols, nullptr);
    });
    return kOk;
  });
}

template <template <class> class Body, int Slots = 0, class Args>
Status for_rows(const Launch& launch, const Args& args) {
  return dispatch(launch.dtype, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    const Body<T> body{args};
    const int64_t cols = launch.cols;
    if (cols == 0) {  // nothing to read, but row.store still has a value to write
      for (int64_t i = 0; i < launch.rows; ++i) body(Row<T>{i, 0, 0, 0, nullptr});
      return kOk;
    }
    torch::stable::parallel_for(0, launch.rows, std::max<int64_t>(1, kGrain / cols), [&](int64_t begin, int64_t end) {
      static thread_local std::vector<compute_t<T>> scratch;
      if (scratch.size() < static_cast<size_t>(Slots * cols)) scratch.resize(Slots * cols);
      run<T>(body, launch.rows, begin * cols, end * cols, cols, scratch.data());
    });
    return kOk;
  });
}

template <template <class> class Body, int Slots = 0, class Args>
Status for_logits(const Launch& launch, const Args& args) {
  return for_rows<Body, Slots>(launch, args);
}

template <class T, class Body>
FASTADV_CLONES int64_t run_partition(const Body& body, int64_t rows, int64_t cols, int64_t* order) {
  int64_t front = 0, back = rows;
  for (int64_t i = 0; i < rows; ++i) order[body(Row<T>{i, 0, cols, cols, nullptr}) ? front++ : --back] = i;
  return front;
}

// The rows for which the body returns true, in order, then the others from the back; `count`: how many there are of the first.
template <template <class> class Body, class Args>
Status partition(const Launch& launch, const Args& args, int64_t* order, int64_t* count) {
  return dispatch(launch.dtype, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    *count = run_partition<T>(Body<T>{args}, launch.rows, launch.cols, order);
    return kOk;
  });
}

// Items shared out to threads, each of them as much work as that many elements: f(begin, end, scratch), with room for as
// many numbers as are wanted, zero when first seen.
template <class C, class F>
Status for_items(int64_t items, int64_t elements, int64_t room, F f) {
  const int64_t grain = std::max<int64_t>(1, kGrain / std::max<int64_t>(1, elements));
  torch::stable::parallel_for(0, items, grain, [&](int64_t begin, int64_t end) {
    static thread_local std::vector<C> scratch;
    if (scratch.size() < static_cast<size_t>(room)) scratch.resize(room);
    f(begin, end, scratch.data());
  });
  return kOk;
}

}  // namespace fastadv
