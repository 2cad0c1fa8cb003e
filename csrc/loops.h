// The only file that knows a CPU loop from a CUDA block.
//
// A kernel is a functor `body(Row)`: it says what happens to one sample (a row of a [rows, cols] array) through
// row.map (elementwise), row.sum / row.max (reductions, for_rows only), row.each (by index) and row.store (one
// value a row). for_each cuts rows into segments, so it takes elementwise bodies only; for_rows hands over
// whole rows. Arithmetic is written on values (float, or double for float64 data), never on memory.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <type_traits>

#include "kernels.h"

#ifdef FASTADV_CUDA
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#define FASTADV_FN __device__ inline
#else
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cstring>
#define FASTADV_FN inline __attribute__((always_inline))
#endif

namespace fastadv {

#ifdef FASTADV_CUDA
using half_t = __half;
using bfloat16_t = __nv_bfloat16;
#else
// The 16 bits as scalars, converted by integer arithmetic: no compiler here vectorises a loop over a class or _Float16.
enum class half_t : uint16_t {};
enum class bfloat16_t : uint16_t {};
#endif

// The type a kernel computes in: float, and double for float64 data.
template <class T>
using compute_t = std::conditional_t<std::is_same_v<T, double>, double, float>;

template <class T>
FASTADV_FN compute_t<T> load(T value) {
  return static_cast<compute_t<T>>(value);
}

template <class T, class C>
FASTADV_FN T narrow(C value) {
  return static_cast<T>(value);
}

#ifdef FASTADV_CUDA
// By name: torch compiles extensions with CUDA's implicit half conversions switched off.
template <>
FASTADV_FN float load(half_t value) {
  return __half2float(value);
}
template <>
FASTADV_FN half_t narrow(float value) {
  return __float2half_rn(value);
}
template <>
FASTADV_FN float load(bfloat16_t value) {
  return __bfloat162float(value);
}
template <>
FASTADV_FN bfloat16_t narrow(float value) {
  return __float2bfloat16_rn(value);
}
#else
template <class To, class From>
FASTADV_FN To bits_as(From from) {
  static_assert(sizeof(To) == sizeof(From), "same size");
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}

template <>
FASTADV_FN float load(bfloat16_t value) {
  return bits_as<float>(static_cast<uint32_t>(value) << 16);
}

template <>
FASTADV_FN bfloat16_t narrow(float value) {  // to nearest, ties to even
  const uint32_t bits = bits_as<uint32_t>(value);
  const uint32_t rounded = (bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16;
  return static_cast<bfloat16_t>(value == value ? rounded : 0x7FC0u);
}

template <>
FASTADV_FN float load(half_t value) {
  const uint32_t half = static_cast<uint32_t>(value), magnitude = (half & 0x7FFFu) << 13;
  const float finite = bits_as<float>(magnitude) * 5.192296858534828e+33f;  // 2^112, the difference of the exponents
  const uint32_t wide = magnitude >= 0x0F800000u ? magnitude | 0x7F800000u : bits_as<uint32_t>(finite);
  return bits_as<float>(wide | (half & 0x8000u) << 16);
}

template <>
FASTADV_FN half_t narrow(float value) {  // to nearest, ties to even
  const uint32_t bits = bits_as<uint32_t>(value), magnitude = bits & 0x7FFFFFFFu;
  const uint32_t normal = (magnitude - (112u << 23) + 0xFFFu + ((magnitude >> 13) & 1u)) >> 13;
  // Adding 0.5 leaves a subnormal half's bits, rounded, at the end of the fraction.
  const uint32_t subnormal = bits_as<uint32_t>(bits_as<float>(magnitude) + 0.5f) - 0x3F000000u;
  uint32_t half = magnitude < (113u << 23) ? subnormal : normal;
  half = magnitude >= 0x477FF000u ? 0x7C00u : half;  // 65520 and above
  half = magnitude > 0x7F800000u ? 0x7E00u : half;
  return static_cast<half_t>(half | (bits >> 16 & 0x8000u));
}
#endif

// Calls f with a null pointer of the element type, so that it can name the type: dispatch(dtype, [](auto* t) {...}).
template <class F>
Status dispatch(Dtype dtype, F&& f) {
  switch (dtype) {
    case Dtype::float64:
      return f(static_cast<double*>(nullptr));
    case Dtype::float16:
      return f(static_cast<half_t*>(nullptr));
    case Dtype::bfloat16:
      return f(static_cast<bfloat16_t*>(nullptr));
    default:
      return f(static_cast<float*>(nullptr));
  }
}

#ifndef FASTADV_CUDA
// ---------------------------------------------------------------------------------------------------- CPU

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

struct Row {
  int64_t index;       // which sample
  int64_t begin, end;  // its elements that this body is to handle
  int64_t cols;

  template <class T, class F, class... In>
  FASTADV_FN void map(T* out, F f, const In*... in) const {
    const int64_t base = index * cols;
#pragma omp simd
    for (int64_t i = begin; i < end; ++i) out[base + i] = narrow<T>(f(load(in[base + i])...));
  }

  template <class F, class... In>
  FASTADV_FN double sum(F f, const In*... in) const {
    const int64_t base = index * cols;
    double total = 0;
#pragma omp simd reduction(+ : total)
    for (int64_t i = begin; i < end; ++i) total += static_cast<double>(f(load(in[base + i])...));
    return total;
  }

  // Maximum of non-negative values; NaN as soon as one value is NaN.
  template <class F, class First, class... In>
  FASTADV_FN double max(F f, const First* first, const In*... in) const {
    const int64_t base = index * cols;
    compute_t<First> top = 0;
    int nan = 0;
#pragma omp simd reduction(max : top) reduction(| : nan)
    for (int64_t i = begin; i < end; ++i) {
      const compute_t<First> value = f(load(first[base + i]), load(in[base + i])...);
      top = value > top ? value : top;
      nan |= value != value;
    }
    return nan ? std::numeric_limits<double>::quiet_NaN() : static_cast<double>(top);
  }

  template <class F>
  FASTADV_FN void each(int64_t count, F f) const {
    for (int64_t i = 0; i < count; ++i) f(i);
  }

  template <class T>
  FASTADV_FN void store(T* out, double value) const {
    out[index] = static_cast<T>(value);
  }
};

constexpr int64_t kGrain = 1 << 15;  // elements a thread takes at least: below it, waking a thread costs more

// Elements [begin, end) of the flat array, row by row.
template <class Body>
FASTADV_CLONES void run(const Body& body, int64_t begin, int64_t end, int64_t cols) {
  while (begin < end) {
    const int64_t index = begin / cols, first = begin % cols;
    const int64_t last = std::min(cols, first + end - begin);
    body(Row{index, first, last, cols});
    begin += last - first;
  }
}

template <class Body>
Status for_each(const Launch& launch, const Body& body) {
  if (launch.cols == 0) return kOk;
  torch::stable::parallel_for(0, launch.rows * launch.cols, kGrain, [&](int64_t begin, int64_t end) {
    run(body, begin, end, launch.cols);
  });
  return kOk;
}

template <class Body>
Status for_rows(const Launch& launch, const Body& body) {
  const int64_t cols = launch.cols;
  if (cols == 0) {  // nothing to read, but row.store still has a value to write
    for (int64_t i = 0; i < launch.rows; ++i) body(Row{i, 0, 0, 0});
    return kOk;
  }
  torch::stable::parallel_for(0, launch.rows, std::max<int64_t>(1, kGrain / cols), [&](int64_t begin, int64_t end) {
    run(body, begin * cols, end * cols, cols);
  });
  return kOk;
}

#else
// --------------------------------------------------------------------------------------------------- CUDA

// A macro, because only nvcc understands <<<>>>: tests/simt runs these sources on the CPU, compiled by g++.
#ifndef FASTADV_LAUNCH
#define FASTADV_LAUNCH(kernel, blocks, threads, stream, ...) kernel<<<blocks, threads, 0, stream>>>(__VA_ARGS__)
#endif

constexpr int kMaxThreads = 512;

// N elements read or written in one 16-byte access.
template <class T, int N>
struct alignas(sizeof(T) * N) Pack {
  T value[N];
};

template <class... P>
FASTADV_FN bool aligned16(const P*... pointers) {
  return ((reinterpret_cast<uintptr_t>(pointers) % 16 == 0) && ...);
}

struct Row {
  int64_t index;       // which sample
  int64_t begin, end;  // its elements that this block is to handle
  int64_t cols;

  // Calls visit(i, values...) for every element, 16 bytes of each input at a time where addresses allow it.
  // Inputs share one element type, as the host function has checked.
  template <class Visit, class T, class... In>
  FASTADV_FN void walk(Visit visit, const T* first, const In*... in) const {
    constexpr int N = 16 / sizeof(T);
    const int64_t base = index * cols + begin, count = end - begin;
    int64_t done = 0;
    if (aligned16(first + base, (in + base)...)) {
      done = count / N * N;
      for (int64_t i = int64_t(threadIdx.x) * N; i < done; i += int64_t(blockDim.x) * N)
        visit(base + i, *reinterpret_cast<const Pack<T, N>*>(first + base + i),
              *reinterpret_cast<const Pack<T, N>*>(in + base + i)...);
    }
    for (int64_t i = done + threadIdx.x; i < count; i += blockDim.x)
      visit(base + i, Pack<T, 1>{{first[base + i]}}, Pack<T, 1>{{in[base + i]}}...);
  }

  template <class T, class F, class... In>
  FASTADV_FN void map(T* out, F f, const In*... in) const {
    const bool wide = aligned16(out + index * cols + begin);
    walk(
        [=](int64_t at, const auto& first, const auto&... rest) {
          using P = std::decay_t<decltype(first)>;
          constexpr int N = sizeof(P) / sizeof(T);
          P result;
          for (int k = 0; k < N; ++k) result.value[k] = narrow<T>(f(load(first.value[k]), load(rest.value[k])...));
          if (N == 1 || wide) {
            *reinterpret_cast<P*>(out + at) = result;
          } else {
            for (int k = 0; k < N; ++k) out[at + k] = result.value[k];
          }
        },
        in...);
  }

  template <class F, class... In>
  FASTADV_FN double sum(F f, const In*... in) const {
    double part = 0;
    walk(
        [&](int64_t, const auto& first, const auto&... rest) {
          constexpr int N = sizeof(first.value) / sizeof(first.value[0]);
          for (int k = 0; k < N; ++k) part += static_cast<double>(f(load(first.value[k]), load(rest.value[k])...));
        },
        in...);
    return block_reduce(part, [](double a, double b) { return a + b; });
  }

  // Maximum of non-negative values; NaN as soon as one value is NaN.
  template <class F, class... In>
  FASTADV_FN double max(F f, const In*... in) const {
    double part = 0;
    const auto larger = [](double a, double b) { return (b > a || b != b) && a == a ? b : a; };
    walk(
        [&](int64_t, const auto& first, const auto&... rest) {
          constexpr int N = sizeof(first.value) / sizeof(first.value[0]);
          for (int k = 0; k < N; ++k)
            part = larger(part, static_cast<double>(f(load(first.value[k]), load(rest.value[k])...)));
        },
        in...);
    return block_reduce(part, larger);
  }

  template <class F>
  FASTADV_FN void each(int64_t count, F f) const {
    for (int64_t i = threadIdx.x; i < count; i += blockDim.x) f(i);
  }

  template <class T>
  FASTADV_FN void store(T* out, double value) const {
    if (threadIdx.x == 0) out[index] = static_cast<T>(value);
  }

 private:
  // A tree in a fixed order (no atomics), so equal inputs give equal bits; every thread gets the result.
  template <class Join>
  FASTADV_FN static double block_reduce(double value, Join join) {
    __shared__ double warps[kMaxThreads / 32];
    for (int offset = 16; offset > 0; offset /= 2) value = join(value, __shfl_xor_sync(0xffffffffu, value, offset));
    if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = value;
    __syncthreads();
    double result = warps[0];
    for (unsigned w = 1; w < blockDim.x / 32; ++w) result = join(result, warps[w]);
    __syncthreads();  // before the next reduction writes `warps` again
    return result;
  }
};

template <class Body>
__global__ void __launch_bounds__(kMaxThreads) rows_kernel(Body body, int64_t cols, int64_t segments, int64_t length) {
  const int64_t index = blockIdx.x / segments, begin = blockIdx.x % segments * length;
  body(Row{index, begin, begin + length < cols ? begin + length : cols, cols});
}

template <class Body>
Status launch_rows(const Launch& launch, const Body& body, int64_t length) {
  if (launch.rows == 0) return kOk;
  const int64_t segments = launch.cols > length ? (launch.cols + length - 1) / length : 1;
  if (launch.rows * segments > std::numeric_limits<int32_t>::max()) return cudaErrorInvalidConfiguration;
  // Four elements a thread (16 bytes of float32), whole warps.
  const int64_t per_block = launch.cols < length ? launch.cols : length;
  int64_t threads = (per_block / 4 + 31) / 32 * 32;
  threads = threads < 32 ? 32 : threads > kMaxThreads ? kMaxThreads : threads;
  const auto blocks = static_cast<unsigned>(launch.rows * segments);
  const auto stream = static_cast<cudaStream_t>(launch.stream);
  FASTADV_LAUNCH(rows_kernel<Body>, blocks, static_cast<unsigned>(threads), stream, body, launch.cols, segments, length);
  return cudaGetLastError();
}

template <class Body>
Status for_each(const Launch& launch, const Body& body) {
  // Segments of 4096 elements keep every multiprocessor busy when samples are few and long, and keep 16-byte alignment.
  return launch.cols == 0 ? Status(kOk) : launch_rows(launch, body, int64_t(4096));
}

template <class Body>
Status for_rows(const Launch& launch, const Body& body) {
  return launch_rows(launch, body, std::numeric_limits<int64_t>::max());
}
#endif

}  // namespace fastadv
