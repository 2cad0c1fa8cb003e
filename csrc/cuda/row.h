// Rows and loops on CUDA: a block a sample, or a warp a short one; 16-byte accesses; held rows in shared memory;
// reductions as trees in a fixed order (no atomics), so equal inputs give equal bits.
#pragma once

#include "../loops.h"

// Macros, because only nvcc understands <<<>>> and extern __shared__: tests/simt runs these sources compiled by g++.
#ifndef FASTADV_LAUNCH
#define FASTADV_LAUNCH(kernel, blocks, threads, shared, stream, ...) \
  kernel<<<blocks, threads, shared, stream>>>(__VA_ARGS__)
#define FASTADV_DYNAMIC_SHARED(name) extern __shared__ __align__(16) unsigned char name[]
#endif

namespace fastadv {

constexpr int kMaxThreads = 512;
constexpr int kWarp = 32;
constexpr unsigned kFullWarp = 0xffffffffu;
constexpr int64_t kWarpCols = 512;   // the longest row that a warp handles alone
constexpr int64_t kSegment = 4096;   // elements a block of for_each: busy with few long samples, too, and 16-byte aligned
constexpr int kWarpsOfShortRows = 8;  // a block's warps, each with a row of its own

// Elements from one slot of held rows to the next: each begins at a 16-byte boundary.
constexpr int64_t padded(int64_t cols) { return (cols + 7) / 8 * 8; }

// A held row lies in shared memory; where it did not fit, `values` is null and `compute` makes them anew.
template <class C, class Compute>
struct Held {
  const C* values;
  Compute compute;
  bool wide;  // whether it can be taken in 16-byte accesses
};

FASTADV_FN bool aligned16(const void* address) { return reinterpret_cast<uintptr_t>(address) % 16 == 0; }

template <class V, int N>
struct Values {
  V value[N];
};

template <class V>
FASTADV_FN V shuffled(V value, int lanes) {
  return __shfl_xor_sync(kFullWarp, value, lanes);
}
FASTADV_FN Two shuffled(Two value, int lanes) { return {shuffled(value.a, lanes), shuffled(value.b, lanes)}; }

// Where the warps of a block leave what they have for a reduction. One place for all: a kernel's static arrays add up.
FASTADV_FN void* between_warps() {
  __shared__ __align__(16) unsigned char memory[kMaxThreads / kWarp * 16];
  return memory;
}

template <class T>
struct Row {
  using C = compute_t<T>;

  int64_t index;       // which sample
  int64_t begin, end;  // its elements that these threads are to handle
  int64_t cols;
  C* scratch;  // shared memory for held rows, null where they do not fit
  unsigned thread, threads;  // of the block, or of the warp whose own this row is

  template <class U, class F, class... S>
  FASTADV_FN void map(U* out, F f, const S&... sources) const {
    U* const to = out + index * cols;
    walk(aligned16(to + begin), [=](auto width, int64_t at, const auto&... v) {
      constexpr int N = decltype(width)::value;
      Pack<U, N> result;
      for (int k = 0; k < N; ++k) result.value[k] = narrow<U>(f(v.value[k]...));
      write(to + at, result);
    }, sources...);
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
    const auto larger = [](double a, double b) { return (b > a || b != b) && a == a ? b : a; };
    return reduce(0.0, [=](double part, const auto&... v) { return larger(part, static_cast<double>(f(v...))); }, larger,
                  sources...);
  }

  template <class F, class... S>
  FASTADV_FN int64_t count(F f, const S&... sources) const {
    return reduce(0LL, [=](long long part, const auto&... v) { return part + (f(v...) ? 1 : 0); },
                  [](long long a, long long b) { return a + b; }, sources...);
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

  template <int Slot, class F, class... S>
  FASTADV_FN auto hold(F f, const S&... sources) const {
    C* const values = slot<Slot>();
    if (values) {
      walk(true, [=](auto width, int64_t at, const auto&... v) {
        constexpr int N = decltype(width)::value;
        *reinterpret_cast<Pack<C, N>*>(values + at) = combine<N>(f, v...);
      }, sources...);
      sync();  // the next walk may hand the elements to other threads
    }
    return held(values, f, sources...);
  }

  template <int Slot, class F, class M, class... S>
  FASTADV_FN auto hold_sum(F f, M measure, const S&... sources) const {
    C* const values = slot<Slot>();
    double part = 0;
    walk(alike(), [&](auto width, int64_t at, const auto&... v) {
      constexpr int N = decltype(width)::value;
      const auto made = combine<N>(f, v...);
      if (values) *reinterpret_cast<Pack<C, N>*>(values + at) = made;
      for (int k = 0; k < N; ++k) part += static_cast<double>(measure(made.value[k]));
    }, sources...);
    const double sum = across(part, [](double a, double b) { return a + b; });  // and a barrier after what is held
    const auto row = held(values, f, sources...);
    return Summed<std::decay_t<decltype(row)>>{row, sum};
  }

  template <class U>
  FASTADV_FN void store(U* out, double value) const {
    if (thread == 0) out[index] = static_cast<U>(value);
  }
  template <class U>
  FASTADV_FN void store(U* out, int64_t value) const {
    if (thread == 0) out[index] = static_cast<U>(value);
  }

  FASTADV_FN void sync() const {
    if (threads == kWarp) {
      __syncwarp();
    } else {
      __syncthreads();
    }
  }

 private:
  struct Best {
    double value;
    long long index;
    FASTADV_FN friend Best shuffled(Best best, int lanes) {
      return {fastadv::shuffled(best.value, lanes), fastadv::shuffled(best.index, lanes)};
    }
  };

  // N elements in memory, read or written in 16-byte accesses.
  template <class U, int N>
  struct alignas(N * sizeof(U) < 16 ? N * sizeof(U) : 16) Pack {
    U value[N];
  };

  // To global memory.
  template <class U, int N>
  FASTADV_FN static void write(U* to, const Pack<U, N>& values) {
    if constexpr (sizeof(values) % 16 == 0) {
      uint4 wide[sizeof(values) / 16];
      std::memcpy(wide, &values, sizeof(values));
      // By name: nvcc now and then splits the assignment of a struct into its elements.
      for (size_t k = 0; k < sizeof(values) / 16; ++k) __stwb(reinterpret_cast<uint4*>(to) + k, wide[k]);
    } else {
      *reinterpret_cast<Pack<U, N>*>(to) = values;
    }
  }

  template <int Slot>
  FASTADV_FN C* slot() const {
    return scratch ? scratch + Slot * padded(cols) : nullptr;
  }

  template <class F, class... S>
  FASTADV_FN auto held(const C* values, F f, const S&... sources) const {
    const Row row = *this;
    const auto compute = [=](auto width, int64_t at) {
      constexpr int N = decltype(width)::value;
      return row.combine<N>(f, row.take<N>(sources, at)...);
    };
    return Held<C, decltype(compute)>{values, compute, values || (aligned(sources) && ...)};
  }

  template <int N, class F, class... V>
  FASTADV_FN static auto combine(F f, const V&... v) {
    Pack<C, N> result;
    for (int k = 0; k < N; ++k) result.value[k] = f(v.value[k]...);
    return result;
  }

  // N elements of a source, from number `at` on.
  template <int N, class U>
  FASTADV_FN auto take(const U* source, int64_t at) const {
    const Pack<U, N> pack = *reinterpret_cast<const Pack<U, N>*>(source + index * cols + at);
    Values<compute_t<U>, N> result;
    for (int k = 0; k < N; ++k) result.value[k] = load(pack.value[k]);
    return result;
  }
  template <int N>
  FASTADV_FN auto take(Indices, int64_t at) const {
    Values<int64_t, N> result;
    for (int k = 0; k < N; ++k) result.value[k] = at + k;
    return result;
  }
  template <int N, class Draw>
  FASTADV_FN auto take(const Fours<Draw>& source, int64_t at) const {
    Values<uint32_t, N> result;
    for (int k = 0; k < N; k += 4) {
      const Words drawn = source.draw((at + k) / 4);
      for (int j = 0; j < 4 && k + j < N; ++j) {
        const int64_t word = N < 4 ? (at + j) % 4 : j;  // picked by selects: an index would put the words into memory
        const uint32_t low = word == 0 ? drawn.word[0] : drawn.word[1], high = word == 2 ? drawn.word[2] : drawn.word[3];
        result.value[k + j] = word < 2 ? low : high;
      }
    }
    return result;
  }
  template <int N, class Compute>
  FASTADV_FN auto take(const Held<C, Compute>& source, int64_t at) const {
    return source.values ? *reinterpret_cast<const Pack<C, N>*>(source.values + at)
                         : source.compute(std::integral_constant<int, N>{}, at);
  }

  template <class S>
  FASTADV_FN bool aligned(const S& source) const {
    if constexpr (std::is_pointer_v<S>) return aligned16(source + index * cols + begin);
    return true;
  }
  template <class Compute>
  FASTADV_FN bool aligned(const Held<C, Compute>& source) const {
    return source.wide;
  }

  // Whether all rows of an array that begins at a 16-byte boundary do, so that sums go in one order wherever in a batch a
  // sample stands.
  FASTADV_FN bool alike() const { return cols * sizeof(T) % 16 == 0; }

  // Calls visit(how many, at, values...) for all elements, as many at a time as fill 16 bytes of T where the
  // addresses allow it: `wide` says so of what visit writes to.
  template <class Visit, class... S>
  FASTADV_FN void walk(bool wide, Visit visit, const S&... sources) const {
    constexpr int N = 16 / sizeof(T);
    const int64_t count = end - begin, whole = (wide && ... && aligned(sources)) ? count / N * N : 0;
    for (int64_t i = int64_t(thread) * N; i < whole; i += int64_t(threads) * N)
      visit(std::integral_constant<int, N>{}, begin + i, take<N>(sources, begin + i)...);
    for (int64_t i = whole + thread; i < count; i += threads)
      visit(std::integral_constant<int, 1>{}, begin + i, take<1>(sources, begin + i)...);
  }

  template <class V, class Fold, class Join, class... S>
  FASTADV_FN V reduce(V part, Fold fold, Join join, const S&... sources) const {
    walk(alike(), [&](auto width, int64_t, const auto&... v) {
      for (int k = 0; k < decltype(width)::value; ++k) part = fold(part, v.value[k]...);
    }, sources...);
    return across(part, join);
  }

  // Joins what the threads of the row have; every thread gets the result.
  template <class V, class Join>
  FASTADV_FN V across(V part, Join join) const {
    for (int lanes = kWarp / 2; lanes > 0; lanes /= 2) part = join(part, shuffled(part, lanes));
    if (threads == kWarp) {
      __syncwarp();  // shuffles order no memory: what was read to get here may be written next, by another thread
      return part;
    }
    static_assert(sizeof(V) <= 16);
    V* const warps = static_cast<V*>(between_warps());
    if (thread % kWarp == 0) warps[thread / kWarp] = part;
    __syncthreads();
    V result = warps[0];
    for (unsigned w = 1; w < threads / kWarp; ++w) result = join(result, warps[w]);
    __syncthreads();  // before the next reduction writes `warps` again
    return result;
  }
};

template <class T, class Body>
FASTADV_FN void prepare(Body& body, int64_t rows) {
  if constexpr (Prepares<Body>::value) body.prepare(Row<T>{0, 0, rows, rows, nullptr, threadIdx.x, blockDim.x});
}

template <class T, class Body>
__global__ void __launch_bounds__(kMaxThreads) segments_kernel(Body body, int64_t rows, int64_t cols, int64_t segments) {
  prepare<T>(body, rows);
  const int64_t index = blockIdx.x / segments, begin = blockIdx.x % segments * kSegment;
  const int64_t end = begin + kSegment < cols ? begin + kSegment : cols;
  body(Row<T>{index, begin, end, cols, nullptr, threadIdx.x, blockDim.x});
}

// `together` threads a row: the block, or a warp.
template <class T, class Body>
__global__ void __launch_bounds__(kMaxThreads) rows_kernel(Body body, int64_t rows, int64_t cols, unsigned together,
                                                           int64_t held) {
  FASTADV_DYNAMIC_SHARED(shared);
  const unsigned group = threadIdx.x / together;
  const int64_t index = int64_t(blockIdx.x) * (blockDim.x / together) + group;
  if (index >= rows) return;  // a whole warp: nobody waits for it
  compute_t<T>* const scratch = held ? reinterpret_cast<compute_t<T>*>(shared) + group * held : nullptr;
  body(Row<T>{index, 0, cols, cols, scratch, threadIdx.x % together, together});
}

template <class T, class Body>
__global__ void __launch_bounds__(kMaxThreads) partition_kernel(Body body, int64_t rows, int64_t cols, int64_t* order,
                                                                int64_t* count) {
  __shared__ int kept[kMaxThreads / kWarp];
  const int64_t warps = blockDim.x / kWarp, warp = threadIdx.x / kWarp;
  const unsigned lane = threadIdx.x % kWarp;
  // Each warp takes as many rows in turn as it has lanes: lane l remembers the answer of the l-th.
  const int64_t each = (rows + warps - 1) / warps < kWarp ? (rows + warps - 1) / warps : kWarp;
  int64_t front = 0, back = rows;
  for (int64_t chunk = 0; chunk < rows; chunk += warps * each) {
    const int64_t first = chunk + warp * each;
    bool mine = false;
    for (int64_t r = 0; r < each && first + r < rows; ++r) {
      const bool keep = body(Row<T>{first + r, 0, cols, cols, nullptr, lane, kWarp});
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
    const int64_t row = first + lane, place = before + __popc(keeping & ((1u << lane) - 1));
    if (lane < each && row < rows) order[mine ? front + place : back - 1 - (row - chunk - place)] = row;
    front += all;
    back -= (rows - chunk < warps * each ? rows - chunk : warps * each) - all;
    __syncthreads();  // before `kept` is written again
  }
  if (threadIdx.x == 0) *count = front;
}

// Four elements a thread (16 bytes of float32), whole warps.
inline unsigned threads_for(int64_t cols) {
  const int64_t threads = (cols / 4 + kWarp - 1) / kWarp * kWarp;
  return static_cast<unsigned>(threads < kWarp ? kWarp : threads > kMaxThreads ? kMaxThreads : threads);
}

template <template <class> class Body, class Args>
Status for_each(const Launch& launch, const Args& args) {
  if (launch.rows == 0 || launch.cols == 0) return kOk;
  const int64_t segments = (launch.cols + kSegment - 1) / kSegment, length = segments > 1 ? kSegment : launch.cols;
  if (launch.rows * segments > std::numeric_limits<int32_t>::max()) return cudaErrorInvalidConfiguration;
  return dispatch(launch.dtype, [&](auto* type) -> Status {
    using T = std::remove_pointer_t<decltype(type)>;
    FASTADV_LAUNCH((segments_kernel<T, Body<T>>), static_cast<unsigned>(launch.rows * segments), threads_for(length), 0,
                   static_cast<cudaStream_t>(launch.stream), Body<T>{args}, launch.rows, launch.cols, segments);
    return cudaGetLastError();
  });
}

// Lets `kernel` use `bytes` of shared memory; 0 where a block of the current device cannot have so much.
template <class Kernel>
int64_t shared_memory(Kernel* kernel, int64_t bytes) {
  constexpr int64_t kWithoutAsking = 48 * 1024, kStatic = 1024;  // what the kernel's own arrays take at most
  int device = 0, most = 0;
  if (bytes == 0) return 0;
  if (cudaGetDevice(&device) || cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device)) return 0;
  if (bytes + kStatic > most) return 0;
  if (bytes + kStatic <= kWithoutAsking) return bytes;
  const auto entry = reinterpret_cast<const void*>(kernel);
  return cudaFuncSetAttribute(entry, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)) ? 0 : bytes;
}

template <template <class> class Body, int Slots = 0, class Args>
Status for_rows(const Launch& launch, const Args& args) {
  if (launch.rows == 0) return kOk;
  const bool by_warp = launch.cols <= kWarpCols;
  const unsigned together = by_warp ? kWarp : threads_for(launch.cols);
  const int64_t rows_per_block = by_warp ? kWarpsOfShortRows : 1;
  const int64_t blocks = (launch.rows + rows_per_block - 1) / rows_per_block;
  if (blocks > std::numeric_limits<int32_t>::max()) return cudaErrorInvalidConfiguration;
  return dispatch(launch.dtype, [&](auto* type) -> Status {
    using T = std::remove_pointer_t<decltype(type)>;
    const int64_t held = Slots * padded(launch.cols);
    const int64_t wanted = rows_per_block * held * static_cast<int64_t>(sizeof(compute_t<T>));
    const int64_t shared = shared_memory(rows_kernel<T, Body<T>>, wanted);
    FASTADV_LAUNCH((rows_kernel<T, Body<T>>), static_cast<unsigned>(blocks),
                   static_cast<unsigned>(together * rows_per_block), static_cast<size_t>(shared),
                   static_cast<cudaStream_t>(launch.stream), Body<T>{args}, launch.rows, launch.cols, together,
                   shared ? held : int64_t(0));
    return cudaGetLastError();
  });
}

// The rows for which the body returns true, in order, then the others from the back; `count`: how many there are of the
// first. One block: a batch has few rows, and waiting for others would take a second launch.
template <template <class> class Body, class Args>
Status partition(const Launch& launch, const Args& args, int64_t* order, int64_t* count) {
  return dispatch(launch.dtype, [&](auto* type) -> Status {
    using T = std::remove_pointer_t<decltype(type)>;
    FASTADV_LAUNCH((partition_kernel<T, Body<T>>), 1, kMaxThreads, 0, static_cast<cudaStream_t>(launch.stream),
                   Body<T>{args}, launch.rows, launch.cols, order, count);
    return cudaGetLastError();
  });
}

}  // namespace fastadv
