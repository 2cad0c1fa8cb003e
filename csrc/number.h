// Numbers: element types, the type that kernels compute in, and the conversions between them.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

#include "kernels.h"

#ifdef FASTADV_CUDA
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#define FASTADV_FN __device__ inline
#else
#define FASTADV_FN inline __attribute__((always_inline))
#endif

#ifdef __CUDACC__
#define FASTADV_UNROLL _Pragma("unroll")
#else
#define FASTADV_UNROLL
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

template <class To, class From>
FASTADV_FN To bits_as(From from) {
  static_assert(sizeof(To) == sizeof(From), "same size");
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}

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

}  // namespace fastadv
