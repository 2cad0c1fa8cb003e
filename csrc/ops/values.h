// Arithmetic on single values that several ops share.
#pragma once

#include "../loops.h"

namespace fastadv {

template <class C>
FASTADV_FN C at(const PerSample& values, int64_t row) {
  return static_cast<const C*>(values.data)[row * values.stride];
}

// Keeps NaN, as torch.clamp does.
template <class C>
FASTADV_FN C clamp(C v, C lo, C hi) {
  v = v < lo ? lo : v;
  return v > hi ? hi : v;
}

template <class C>
FASTADV_FN C magnitude(C v) {
  return std::fabs(v);
}

template <class C>
FASTADV_FN C largest();
template <>
FASTADV_FN float largest<float>() {
  return 3.402823466e+38F;
}
template <>
FASTADV_FN double largest<double>() {
  return 1.7976931348623157e+308;
}

template <class C>
FASTADV_FN bool is_finite(C v) {
  return v <= largest<C>() && v >= -largest<C>();
}

// v, and 0 for NaN and infinities, so that a broken gradient moves nothing. Selects, not branches: it vectorises.
template <class C>
FASTADV_FN C finite(C v) {
  v = v <= largest<C>() ? v : C(0);
  return v >= -largest<C>() ? v : C(0);
}

// sign(v), and 0 for NaN and infinities.
template <class C>
FASTADV_FN C finite_sign(C v) {
  C sign = v > 0 ? C(1) : C(0);
  sign = v < 0 ? C(-1) : sign;
  sign = v > largest<C>() ? C(0) : sign;
  return v < -largest<C>() ? C(0) : sign;
}

}  // namespace fastadv
