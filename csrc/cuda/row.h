// Rows and loops on CUDA: a block a sample, a warp a short one, a cluster of blocks a long one. An element is the same thread's
// in every walk over the row, so that only reductions take barriers. Short rows are held in registers, long ones in shared
// memory, as far as they fit. 16-byte accesses; reductions as trees in a fixed order, atomics on integers only: equal inputs give
// equal bits.
#pragma once

#include <cooperative_groups.h>

#include "../loops.h"

// A macro, because only nvcc understands extern __shared__: tests/simt runs these sources compiled by g++.
#ifndef FASTADV_DYNAMIC_SHARED
#define FASTADV_DYNAMIC_SHARED(name) extern __shared__ __align__(16) unsigned char name[]
#endif

namespace fastadv {

constexpr unsigned kWarp = 32;
constexpr unsigned kFullWarp = 0xffffffffu;
constexpr unsigned kThreads = 256;      // of a block, at most
constexpr unsigned kMostBlocks = 16;    // of a cluster
constexpr unsigned kPortable = 8;       // blocks of a cluster that every device with clusters can run
constexpr int64_t kHeld = 64 * 1024;    // bytes of held rows above which a row is split, so that a processor runs several blocks
constexpr unsigned kBins = 256;

// Elements in 16 bytes, and how often a thread takes as many at once: 64 bytes of what is computed with.
template <class T>
constexpr int kWide = 16 / sizeof(T);
template <class T>
constexpr int kTimes = 64 / sizeof(compute_t<T>) / kWide<T>;
template <class T>
constexpr int64_t kEach = kWide<T> * kTimes<T>;

// How the threads of a block, or of a warp with a row of its own, tell each other; in turns, as some may still read the last.
struct Board {
  alignas(16) unsigned char warps[2][kThreads / kWarp * 16], blocks[2][kMostBlocks * 16];
  unsigned bins[2][kBins];
};

template <class V, int N>
struct Values {
  V value[N];
};

// What a thread takes of a source at once. A whole source, where the row is short.
template <class U, int N, int Times>
struct Packs {
  struct alignas(16) Pack {
    U value[N];
  };
  Pack pack[Times];
};

// A row in shared memory; where it did not fit, `compute` makes it anew.
template <class C, class Compute>
struct Held {
  C* values;
  Compute compute;
};

FASTADV_FN bool aligned16(const void* address) { return reinterpret_cast<uintptr_t>(address) % 16 == 0; }

template <class V>
FASTADV_FN V shuffled(V value, int lanes) {
  return __shfl_xor_sync(kFullWarp, value, lanes);
}
FASTADV_FN Two shuffled(Two value, int lanes) { return {shuffled(value.a, lanes), shuffled(value.b, lanes)}; }

// Of the cluster, which has one block where there are none.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
FASTADV_FN void wait_for_cluster() { __syncthreads(); }
template <class V>
FASTADV_FN V* in_block(V* shared, unsigned) {
  return shared;
}
#else
FASTADV_FN void wait_for_cluster() { cooperative_groups::this_cluster().sync(); }
template <class V>
FASTADV_FN V* in_block(V* shared, unsigned rank) {
  return cooperative_groups::this_cluster().map_shared_rank(shared, rank);
}
#endif

// `near`: no longer than what the threads take at once, and held in their registers. `few`: of logits, taken one by one, as they
// are few and much is computed of each. `far`: of any length.
enum class Kind { near, few, far };

template <class T, Kind kind = Kind::far>
struct Row {
  using C = compute_t<T>;
  static constexpr bool Near = kind == Kind::near;
  using Number = std::conditional_t<Near, unsigned, int64_t>;
  using Count = std::conditional_t<Near, unsigned, unsigned long long>;

  int64_t index;    // which sample
  int64_t begin;    // the first of its elements that these threads are to handle,
  Number size;      // and how many
  int64_t cols;
  unsigned thread, threads;  // of those that share the row
  Board* board;
  unsigned rank, blocks;  // of the cluster
  Count* totals;          // of the bins of all blocks
  C* scratch;             // shared memory for held rows
  int64_t slot, room;     // elements of a slot; how often the block takes at once what fits
  mutable unsigned turn;

  template <class U, class F, class... S>
  FASTADV_FN void map(U* out, F f, const S&... sources) const {
    each([&](Number s) { write(out, s, make<U>(s, f, take(sources, s)...)); });
  }

  template <class U, class F, class Bad, class... S>
  FASTADV_FN bool map_any(U* out, F f, Bad bad, const S&... sources) const {
    bool found = false;
    each([&](Number s) { found |= write_any(out, s, f, bad, take(sources, s)...); });
    return found;
  }

  template <class F, class... S>
  FASTADV_FN double sum(F f, const S&... sources) const {
    return reduce(0.0, [=](double part, const auto&... v) { return part + static_cast<double>(f(v...)); },
                  [](double a, double b) { return a + b; }, sources...);
  }

  template <class F, class... S>
  FASTADV_FN Two sum2(F f, const S&... sources) const {
    const auto plus = [](Two a, Two b) { return Two{a.a + b.a, a.b + b.b}; };
    return reduce(Two{0, 0}, [=](Two part, const auto&... v) { return plus(part, f(v...)); }, plus, sources...);
  }

  // Maximum of non-negative values; NaN as soon as one value is NaN.
  template <class F, class... S>
  FASTADV_FN double max(F f, const S&... sources) const {
    const auto larger = [](C a, C b) { return (b > a || b != b) && a == a ? b : a; };
    return reduce(C(0), [=](C part, const auto&... v) { return larger(part, static_cast<C>(f(v...))); }, larger, sources...);
  }

  template <class F, class... S>
  FASTADV_FN int64_t count(F f, const S&... sources) const {
    return reduce(Count(0), [=](Count part, const auto&... v) { return part + (f(v...) ? 1 : 0); },
                  [](Count a, Count b) { return a + b; }, sources...);
  }

  // NaN counts as larger than anything, as in torch.argmax.
  template <class F, class... S>
  FASTADV_FN int64_t argmax(F f, const S&... sources) const {
    const auto better = [](Best a, Best b) {
      if (a.index < 0 || b.index < 0) return a.index < 0 ? b : a;
      const bool a_nan = a.value != a.value, b_nan = b.value != b.value;
      const bool tie = a_nan == b_nan && (a_nan || a.value == b.value);
      if (tie) return a.index < b.index ? a : b;
      return b_nan || (!a_nan && b.value > a.value) ? b : a;
    };
    return reduce(Best{0, -1}, [=](Best best, int64_t i, const auto&... v) {
             return better(best, Best{static_cast<double>(f(v...)), static_cast<long long>(i)});
           }, better, Indices{}, sources...).index;
  }

  // By digits of 8 bits, from the highest: non-negative floats are ordered like their bit patterns.
  template <class F, class... S>
  FASTADV_FN Reached<C> reached(int64_t least, F f, const S&... sources) const {
    using Bits = std::conditional_t<sizeof(C) == 8, uint64_t, uint32_t>;
    Bits found = 0;
    int64_t above = 0, reach = cols;
    for (int known = int(sizeof(C)) * 8 - 1; known > 0 && reach != least;) {
      const int shift = known > 8 ? known - 8 : 0;
      unsigned* const bins = clear_bins();
      walk([&](int, Number first, const auto&... v) {
        FASTADV_UNROLL
        for (int k = 0; k < N; ++k) {
          const C value = f(v.value[k]...);
          const Bits bits = bits_as<Bits>(value);
          if (first + k < size && value >= 0 && bits >> known == found >> known) atomicAdd(&bins[bits >> shift & 0xFF], 1u);
        }
      }, sources...);
      const Digit digit = digit_of(bins, static_cast<Count>(least - above));
      found |= static_cast<Bits>(digit.value) << shift;
      above += digit.above;
      reach = above + digit.equal;
      known = shift;
    }
    return {bits_as<C>(found), reach};
  }

  template <class U>
  FASTADV_FN auto ahead(const U* source) const {
    if constexpr (Near) {
      return take(source, 0);
    } else {
      return source;
    }
  }

  template <int Slot, class F, class... S>
  FASTADV_FN auto hold(F f, const S&... sources) const {
    if constexpr (Near) {
      return make<C>(0, f, take(sources, 0)...);
    } else {
      const auto row = held<Slot>(f, sources...);
      for (int64_t s = 0; s < room; ++s) keep(row.values, s, make<C>(s, f, take(sources, s)...));
      return row;
    }
  }

  template <int Slot, class F, class M, class... S>
  FASTADV_FN auto hold_sum(F f, M measure, const S&... sources) const {
    const auto plus = [](double a, double b) { return a + b; };
    double part = 0;
    const auto add = [&](Number s, const Packs<C>& made) {
      over(s, [&](int, Number first, const Values<C, N>& v) {
        FASTADV_UNROLL
        for (int k = 0; k < N; ++k) part = first + k < size ? part + static_cast<double>(measure(v.value[k])) : part;
      }, made);
    };
    if constexpr (Near) {
      const Packs<C> made = make<C>(0, f, take(sources, 0)...);
      add(0, made);
      return Summed<Packs<C>>{made, across(part, plus, 0.0)};
    } else {
      const auto row = held<Slot>(f, sources...);
      each([&](int64_t s) {
        const Packs<C> made = make<C>(s, f, take(sources, s)...);
        if (s < room) keep(row.values, s, made);
        add(s, made);
      });
      return Summed<std::decay_t<decltype(row)>>{row, across(part, plus, 0.0)};
    }
  }

  template <class U>
  FASTADV_FN void store(U* out, double value) const {
    if (thread == 0) out[index] = static_cast<U>(value);
  }
  template <class U>
  FASTADV_FN void store(U* out, int64_t value) const {
    if (thread == 0) out[index] = static_cast<U>(value);
  }

  FASTADV_FN void flag(bool* out) const {
    if (out) __stwb(reinterpret_cast<unsigned char*>(out + index), 1);
  }

  FASTADV_FN void sync() const {
    if (threads == 1) return;
    if (threads == kWarp) {
      __syncwarp();
    } else if (kind != Kind::far || blocks == 1) {
      __syncthreads();
    } else {
      wait_for_cluster();
    }
  }

 private:
  static constexpr int N = kind == Kind::few ? 1 : kWide<T>, Times = Near ? kTimes<T> : 1;
  template <class U>
  using Packs = fastadv::Packs<U, N, Times>;

  struct Best {
    double value;
    long long index;
    FASTADV_FN friend Best shuffled(Best best, int lanes) {
      return {fastadv::shuffled(best.value, lanes), fastadv::shuffled(best.index, lanes)};
    }
  };

  struct Digit {
    unsigned value;
    Count above, equal;  // how many elements have a higher one, and this one
  };

  // The first element of the t-th pack that this thread takes at the s-th time.
  FASTADV_FN Number number(Number s, int t) const { return ((s * Times + t) * threads + thread) * N; }

  // Whether the elements that begin there can be taken in 16-byte accesses, as far as there are any.
  FASTADV_FN bool wide(const void* from) const { return N > 1 && aligned16(from) && size % N == 0; }

  template <class Visit>
  FASTADV_FN void each(Visit visit) const {
    if constexpr (Near) {
      visit(0);
    } else {
      for (int64_t s = 0; number(s, 0) - thread * N < size; ++s) visit(s);
    }
  }

  // Calls visit(t, first, values...) for the packs of what was taken at the s-th time.
  template <class Visit, class... V>
  FASTADV_FN void over(Number s, Visit visit, const V&... taken) const {
    FASTADV_UNROLL
    for (int t = 0; t < Times; ++t) {
      const Number first = number(s, t);
      if (first < size) visit(t, first, values(taken, t, first)...);
    }
  }

  template <class Visit, class... S>
  FASTADV_FN void walk(Visit visit, const S&... sources) const {
    each([&](Number s) { over(s, visit, take(sources, s)...); });
  }

  template <class U>
  FASTADV_FN Packs<U> take(const U* source, Number s) const {
    const U* const from = source + index * cols + begin;
    Packs<U> taken{};
    if (wide(from)) {
      FASTADV_UNROLL
      for (int t = 0; t < Times; ++t) {
        const Number first = number(s, t);
        if (first < size) taken.pack[t] = *reinterpret_cast<const typename Packs<U>::Pack*>(from + first);
      }
    } else {
      FASTADV_UNROLL
      for (int t = 0; t < Times; ++t) {
        const Number first = number(s, t);
        FASTADV_UNROLL
        for (int k = 0; k < N; ++k)
          if (first + k < size) taken.pack[t].value[k] = from[first + k];
      }
    }
    return taken;
  }
  template <class U>
  FASTADV_FN const Packs<U>& take(const Packs<U>& taken, Number) const {
    return taken;
  }
  template <class Compute>
  FASTADV_FN Packs<C> take(const Held<C, Compute>& source, Number s) const {
    if (s >= room) return source.compute(s);
    Packs<C> taken{};
    FASTADV_UNROLL
    for (int t = 0; t < Times; ++t)
      if (number(s, t) < size) taken.pack[t] = *kept(source.values, s, t);
    return taken;
  }
  FASTADV_FN Indices take(Indices, Number) const { return {}; }
  template <class Draw>
  FASTADV_FN const Fours<Draw>& take(const Fours<Draw>& source, Number) const {
    return source;
  }

  template <class U>
  FASTADV_FN static auto values(const Packs<U>& taken, int t, Number) {
    Values<compute_t<U>, N> result;
    FASTADV_UNROLL
    for (int k = 0; k < N; ++k) result.value[k] = load(taken.pack[t].value[k]);
    return result;
  }
  FASTADV_FN auto values(Indices, int, Number first) const {
    Values<Number, N> result;
    FASTADV_UNROLL
    for (int k = 0; k < N; ++k) result.value[k] = first + k;
    return result;
  }
  template <class Draw>
  FASTADV_FN auto values(const Fours<Draw>& source, int, Number first) const {
    static_assert(N > 1, "words come in fours");
    const int64_t at = begin + first;
    Values<uint32_t, N> result;
    FASTADV_UNROLL
    for (int k = 0; k < N; k += 4) {
      const Words drawn = source.draw((at + k) / 4);
      const bool second = N == 2 && at % 4 == 2;
      FASTADV_UNROLL
      for (int j = 0; j < 4 && k + j < N; ++j) result.value[k + j] = second ? drawn.word[(j + 2) % 4] : drawn.word[j];
    }
    return result;
  }

  template <class U, class F, class Bad, class... V>
  FASTADV_FN bool write_any(U* out, Number s, F f, Bad bad, const V&... packs) const {
    bool found = false;
    over(s, [&](int, Number first, const auto&... v) {
      FASTADV_UNROLL
      for (int k = 0; k < N; ++k) found |= first + k < size && bad(v.value[k]...);
    }, packs...);
    write(out, s, make<U>(s, f, packs...));
    return found;
  }

  template <class U, class F, class... V>
  FASTADV_FN Packs<U> make(Number s, F f, const V&... taken) const {
    Packs<U> made{};
    over(s, [&](int t, Number, const auto&... v) {
      FASTADV_UNROLL
      for (int k = 0; k < N; ++k) made.pack[t].value[k] = narrow<U>(f(v.value[k]...));
    }, taken...);
    return made;
  }

  template <class U>
  FASTADV_FN void write(U* out, Number s, const Packs<U>& made) const {
    U* const to = out + index * cols + begin;
    const bool whole = wide(to);
    FASTADV_UNROLL
    for (int t = 0; t < Times; ++t) {
      const Number first = number(s, t);
      if (whole) {
        constexpr int kPieces = sizeof(made.pack[0]) / 16;
        uint4 pieces[kPieces];
        std::memcpy(pieces, &made.pack[t], sizeof(pieces));
        // By name: nvcc now and then splits the assignment of a struct into its elements.
        for (int k = 0; k < kPieces; ++k)
          if (first < size) __stwb(reinterpret_cast<uint4*>(to + first) + k, pieces[k]);
      } else {
        FASTADV_UNROLL
        for (int k = 0; k < N; ++k)
          if (first + k < size) to[first + k] = made.pack[t].value[k];
      }
    }
  }

  FASTADV_FN auto* kept(C* values, Number s, int t) const {
    return reinterpret_cast<typename Packs<C>::Pack*>(values) + (s * Times + t) * blockDim.x + threadIdx.x;
  }
  FASTADV_FN void keep(C* values, Number s, const Packs<C>& made) const {
    FASTADV_UNROLL
    for (int t = 0; t < Times; ++t)
      if (number(s, t) < size) *kept(values, s, t) = made.pack[t];
  }

  template <int Slot, class F, class... S>
  FASTADV_FN auto held(F f, const S&... sources) const {
    const auto compute = [row = *this, f, sources...](Number s) {
      return row.template make<C>(s, f, row.take(sources, s)...);
    };
    return Held<C, decltype(compute)>{scratch + Slot * slot, compute};
  }

  template <class V, class Fold, class Join, class... S>
  FASTADV_FN V reduce(V none, Fold fold, Join join, const S&... sources) const {
    V part = none;
    walk([&](int, Number first, const auto&... v) {
      FASTADV_UNROLL
      for (int k = 0; k < N; ++k) part = first + k < size ? fold(part, v.value[k]...) : part;
    }, sources...);
    return across(part, join, none);
  }

  // Joins what the threads of the row have; every thread gets the result. What was read before may be written afterwards.
  template <class V, class Join>
  FASTADV_FN V across(V part, Join join, V none) const {
    static_assert(sizeof(V) <= 16);
    if (threads == 1) return part;
    FASTADV_UNROLL
    for (int lanes = kWarp / 2; lanes > 0; lanes /= 2) part = join(part, shuffled(part, lanes));
    if (threads == kWarp) {
      __syncwarp();  // shuffles order no memory
      return part;
    }
    V* const warps = reinterpret_cast<V*>(board->warps[turn]);
    if (threadIdx.x % kWarp == 0) warps[threadIdx.x / kWarp] = part;
    __syncthreads();
    part = joined<kThreads / kWarp>(warps, blockDim.x / kWarp, join, none);
    if constexpr (kind == Kind::far) {
      if (blocks > 1) {
        V* const parts = reinterpret_cast<V*>(board->blocks[turn]);
        if (threadIdx.x < blocks) in_block(parts, threadIdx.x)[rank] = part;
        wait_for_cluster();
        part = joined<kMostBlocks>(parts, blocks, join, none);
      }
    }
    turn ^= 1;
    return part;
  }

  // Each warp joins the first values of at most `Most`.
  template <int Most, class V, class Join>
  FASTADV_FN static V joined(const V* values, unsigned count, Join join, V none) {
    const unsigned lane = threadIdx.x % Most;
    V part = lane < count ? values[lane] : none;
    FASTADV_UNROLL
    for (int lanes = Most / 2; lanes > 0; lanes /= 2) part = join(part, shuffled(part, lanes));
    return part;
  }

  FASTADV_FN unsigned* clear_bins() const {
    unsigned* const bins = board->bins[turn];
    const unsigned together = kind == Kind::far ? blockDim.x : threads;
    for (unsigned bin = threadIdx.x % together; bin < kBins; bin += together) bins[bin] = 0;
    sync();
    return bins;
  }

  // The highest digit with which `least` elements, or as many as there are, have it or a higher one.
  FASTADV_FN Digit digit_of(const unsigned* bins, Count least) const {
    const unsigned lane = threadIdx.x % kWarp;
    constexpr unsigned kOwn = kBins / kWarp;
    Count own[kOwn], all = 0;  // from the highest
    sync();
    if constexpr (kind == Kind::far) {
      Count total = 0;
      for (unsigned block = 0; block < blocks; ++block) total += in_block(bins, block)[threadIdx.x];
      totals[threadIdx.x] = total;
      sync();  // nobody ends while others read its bins
    }
    FASTADV_UNROLL
    for (unsigned k = 0; k < kOwn; ++k) {
      const unsigned bin = kBins - 1 - lane * kOwn - k;
      if constexpr (kind == Kind::far) {
        own[k] = totals[bin];
      } else {
        own[k] = bins[bin];
      }
      all += own[k];
    }
    Count up_to = all;  // this lane
    FASTADV_UNROLL
    for (unsigned lanes = 1; lanes < kWarp; lanes *= 2) {
      const Count others = __shfl_up_sync(kFullWarp, up_to, lanes);
      up_to += lane >= lanes ? others : 0;
    }
    const unsigned enough = __ballot_sync(kFullWarp, up_to >= least);
    Digit digit{kBins - 1 - lane * kOwn, up_to - all, own[0]};
    FASTADV_UNROLL
    for (unsigned k = 1; k < kOwn; ++k) {
      const bool next = digit.above + digit.equal < least;
      digit.above += next ? digit.equal : 0;
      digit.equal = next ? own[k] : digit.equal;
      digit.value -= next;
    }
    const unsigned from = enough ? __ffs(enough) - 1 : kWarp - 1;
    turn ^= 1;
    return {__shfl_sync(kFullWarp, digit.value, from), __shfl_sync(kFullWarp, digit.above, from),
            __shfl_sync(kFullWarp, digit.equal, from)};
  }
};

// The elements of a segment: as many as a block takes at once, and 16-byte aligned.
template <class T>
constexpr int64_t kSegment = kEach<T> * kThreads;

template <class T, class Body>
__global__ void __launch_bounds__(kThreads, 2) segments_kernel(Body body, int64_t rows, int64_t cols, unsigned segments) {
  FASTADV_DYNAMIC_SHARED(shared);
  Board* const board = reinterpret_cast<Board*>(shared);
  if constexpr (Prepares<Body>::value) body.prepare(Row<T>{0, 0, rows, rows, threadIdx.x, blockDim.x, board, 0, 1});
  const int64_t begin = int64_t(blockIdx.x % segments) * kSegment<T>, left = cols - begin;
  const unsigned size = static_cast<unsigned>(left < kSegment<T> ? left : kSegment<T>);
  body(Row<T, Kind::near>{blockIdx.x / segments, begin, size, cols, threadIdx.x, blockDim.x, board});
}

// `together` threads a row: the block, or a warp.
template <class T, class Body, Kind kind>
__global__ void __launch_bounds__(kThreads, 2) rows_kernel(Body body, int64_t rows, int64_t cols, unsigned together) {
  FASTADV_DYNAMIC_SHARED(shared);
  const unsigned group = threadIdx.x / together;
  const int64_t index = int64_t(blockIdx.x) * (blockDim.x / together) + group;
  if (index >= rows) return;  // a whole warp: nobody waits for it
  body(Row<T, kind>{index, 0, static_cast<typename Row<T, kind>::Number>(cols), cols, threadIdx.x % together, together,
                    reinterpret_cast<Board*>(shared) + group});
}

template <class T, class Body>
__global__ void __launch_bounds__(kThreads, 2) long_rows_kernel(Body body, int64_t cols, unsigned blocks, int64_t slot,
                                                             int64_t room) {
  using Count = typename Row<T>::Count;
  FASTADV_DYNAMIC_SHARED(shared);
  Count* const totals = reinterpret_cast<Count*>(shared + sizeof(Board));
  compute_t<T>* const scratch = reinterpret_cast<compute_t<T>*>(totals + kBins);
  const unsigned rank = blockIdx.x % blocks;
  const Row<T> row{blockIdx.x / blocks, 0, cols, cols, rank * blockDim.x + threadIdx.x, blocks * blockDim.x,
                   reinterpret_cast<Board*>(shared), rank, blocks, totals, scratch, slot, room};
  if (blocks > 1) wait_for_cluster();  // until all run
  body(row);
}

// A thread a row, or a warp where there are many classes.
template <class T, class Body>
__global__ void __launch_bounds__(kThreads, 2) partition_kernel(Body body, int64_t rows, int64_t cols, int64_t* order,
                                                             int64_t* count, bool alone) {
  __shared__ int kept[kThreads / kWarp];
  const int64_t warps = blockDim.x / kWarp, warp = threadIdx.x / kWarp;
  const unsigned lane = threadIdx.x % kWarp;
  // Each warp takes as many rows as it has lanes, together or one after the other: lane l remembers the answer of the l-th.
  const int64_t each = (rows + warps - 1) / warps < kWarp ? (rows + warps - 1) / warps : kWarp;
  int64_t front = 0, back = rows;
  for (int64_t chunk = 0; chunk < rows; chunk += warps * each) {
    const int64_t first = chunk + warp * each, row = first + lane;
    bool mine = false;
    if (alone && lane < each && row < rows) mine = body(Row<T, Kind::few>{row, 0, cols, cols, 0, 1});
    for (int64_t r = 0; !alone && r < each && first + r < rows; ++r) {
      const bool keep = body(Row<T, Kind::few>{first + r, 0, cols, cols, lane, kWarp});
      mine = lane == r ? keep : mine;
    }
    const unsigned keeping = __ballot_sync(kFullWarp, mine);
    if (lane == 0) kept[warp] = __popc(keeping);
    __syncthreads();
    int64_t before = 0, all = 0;
    for (int64_t w = 0; w < warps; ++w) {
      before += w < warp ? kept[w] : 0;
      all += kept[w];
    }
    const int64_t place = before + __popc(keeping & ((1u << lane) - 1));
    if (lane < each && row < rows) order[mine ? front + place : back - 1 - (row - chunk - place)] = row;
    front += all;
    back -= (rows - chunk < warps * each ? rows - chunk : warps * each) - all;
    __syncthreads();  // before `kept` is written again
  }
  if (threadIdx.x == 0) *count = front;
}

struct Grid {
  int64_t blocks;
  unsigned threads;
  int64_t shared;  // bytes
  unsigned cluster = 1;
};

// Calls go(config) with what CUDA wants to know of a launch.
template <class Go>
auto configured(const Grid& grid, const Launch& launch, Go go) {
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeClusterDimension;
  attribute.val.clusterDim.x = grid.cluster;
  attribute.val.clusterDim.y = attribute.val.clusterDim.z = 1;
  cudaLaunchConfig_t config{};
  config.gridDim.x = static_cast<unsigned>(grid.blocks);
  config.blockDim.x = grid.threads;
  config.dynamicSmemBytes = static_cast<size_t>(grid.shared);
  config.stream = static_cast<cudaStream_t>(launch.stream);
  config.attrs = &attribute;
  config.numAttrs = grid.cluster > 1;
  return go(config);
}

template <class... Parameters, class... Args>
Status start(void (*kernel)(Parameters...), const Grid& grid, const Launch& launch, const Args&... args) {
  if (grid.blocks > std::numeric_limits<int32_t>::max()) return cudaErrorInvalidConfiguration;
  configured(grid, launch, [&](const cudaLaunchConfig_t& config) { return cudaLaunchKernelEx(&config, kernel, args...); });
  return cudaGetLastError();
}

// The threads that take so many elements at once, in whole warps.
template <class T>
unsigned threads_for(int64_t cols) {
  const int64_t warps = (cols + kEach<T> * kWarp - 1) / (kEach<T> * kWarp);
  return static_cast<unsigned>(warps < 1 ? 1 : warps > kThreads / kWarp ? kThreads / kWarp : warps) * kWarp;
}

template <template <class> class Body, class Args>
Status for_each(const Launch& launch, const Args& args) {
  if (launch.rows == 0 || launch.cols == 0) return kOk;
  return dispatch(launch.dtype, [&](auto* type) -> Status {
    using T = std::remove_pointer_t<decltype(type)>;
    const int64_t segments = (launch.cols + kSegment<T> - 1) / kSegment<T>;
    const Grid grid{launch.rows * segments, threads_for<T>(launch.cols), Prepares<Body<T>>::value ? sizeof(Board) : 0};
    return start(segments_kernel<T, Body<T>>, grid, launch, Body<T>{args}, launch.rows, launch.cols,
                 static_cast<unsigned>(segments));
  });
}

// The value of an attribute of the current device; 0 where it cannot be had.
inline int attribute_of_device(cudaDeviceAttr attribute) {
  int device = 0, value = 0;
  return cudaGetDevice(&device) || cudaDeviceGetAttribute(&value, attribute, device) ? 0 : value;
}

// Lets `kernel` have what `grid` asks for; whether it can run.
template <class Kernel>
bool can_run(Kernel* kernel, const Grid& grid, const Launch& launch) {
  constexpr int64_t kWithoutAsking = 48 * 1024;
  const auto entry = reinterpret_cast<const void*>(kernel);
  const auto ask = [=](cudaFuncAttribute what, int64_t much) { return !cudaFuncSetAttribute(entry, what, int(much)); };
  int clusters = 1;
  const bool can =
      (grid.shared <= kWithoutAsking || ask(cudaFuncAttributeMaxDynamicSharedMemorySize, grid.shared)) &&
      (grid.cluster <= kPortable || ask(cudaFuncAttributeNonPortableClusterSizeAllowed, 1)) &&
      (grid.cluster == 1 || configured(grid, launch, [&](const cudaLaunchConfig_t& config) {
         return !cudaOccupancyMaxActiveClusters(&clusters, kernel, &config);
       }));
  if (!can) cudaGetLastError();  // or the launch of another grid would seem to have failed
  return can && clusters > 0;
}

// Rows longer than what a block takes at once: split among the blocks of a cluster where there are clusters.
template <class T, class Body, int Slots>
Status for_long_rows(const Launch& launch, const Body& body) {
  constexpr int64_t kFixed = sizeof(Board) + kBins * sizeof(typename Row<T>::Count), kValue = sizeof(compute_t<T>);
  const auto kernel = long_rows_kernel<T, Body>;
  const int64_t most = attribute_of_device(cudaDevAttrMaxSharedMemoryPerBlockOptin) - kFixed;
  unsigned blocks = 1;
  if (attribute_of_device(cudaDevAttrClusterLaunch))
    while (blocks < kMostBlocks && launch.cols * kValue * (Slots ? Slots : 1) > blocks * kHeld) blocks *= 2;
  for (;; blocks /= 2) {
    const int64_t pack = kThreads * kWide<T>, packs = (launch.cols + pack * blocks - 1) / (pack * blocks);
    const int64_t fitting = Slots ? most / (Slots * pack * kValue) : 0;
    const int64_t held = fitting < packs ? (fitting < 0 ? 0 : fitting) : packs;
    const Grid grid{launch.rows * blocks, kThreads, kFixed + Slots * held * pack * kValue, blocks};
    if (blocks > 1 && !can_run(kernel, grid, launch)) continue;
    if (blocks == 1 && !can_run(kernel, grid, launch)) return cudaErrorInvalidConfiguration;
    return start(kernel, grid, launch, body, launch.cols, blocks, held * pack, held);
  }
}

// A warp a row that has few columns, else a block.
template <Kind kind, class T, class Body>
Status for_short_rows(const Launch& launch, const Body& body) {
  const unsigned together = threads_for<T>(launch.cols), rows = together == kWarp ? kThreads / kWarp : 1;
  const Grid grid{(launch.rows + rows - 1) / rows, together * rows, static_cast<int64_t>(rows * sizeof(Board))};
  return start(rows_kernel<T, Body, kind>, grid, launch, body, launch.rows, launch.cols, together);
}

template <template <class> class Body, int Slots = 0, class Args>
Status for_rows(const Launch& launch, const Args& args) {
  if (launch.rows == 0) return kOk;
  return dispatch(launch.dtype, [&](auto* type) -> Status {
    using T = std::remove_pointer_t<decltype(type)>;
    return launch.cols > kSegment<T> ? for_long_rows<T, Body<T>, Slots>(launch, Body<T>{args})
                                     : for_short_rows<Kind::near, T>(launch, Body<T>{args});
  });
}

// Held rows are computed again each time.
template <template <class> class Body, int Slots = 0, class Args>
Status for_logits(const Launch& launch, const Args& args) {
  if (launch.rows == 0) return kOk;
  return dispatch(launch.dtype, [&](auto* type) -> Status {
    using T = std::remove_pointer_t<decltype(type)>;
    return for_short_rows<Kind::few, T>(launch, Body<T>{args});
  });
}

// The rows for which the body returns true, in order, then the others from the back; `count`: how many there are of the
// first. One block: a batch has few rows, and waiting for others would take a second launch.
template <template <class> class Body, class Args>
Status partition(const Launch& launch, const Args& args, int64_t* order, int64_t* count) {
  return dispatch(launch.dtype, [&](auto* type) -> Status {
    using T = std::remove_pointer_t<decltype(type)>;
    return start(partition_kernel<T, Body<T>>, Grid{1, kThreads, 0}, launch, Body<T>{args}, launch.rows, launch.cols, order,
                 count, launch.cols <= int64_t(kWarp));
  });
}

}  // namespace fastadv
