// The most confusing or the least likely of the classes other than the label's (Bilateral, section 3.3).
#pragma once

#include "rows.h"

namespace fastadv {

template <class T>
struct WrongClassTarget {
  WrongClassTargetArgs a;

  template <class Row>
  FASTADV_FN void operator()(const Row& row) const {
    using C = compute_t<T>;
    const int64_t label = a.labels[row.index];
    const C sign = a.least_likely ? C(-1) : C(1), lowest = -largest<C>();
    const int64_t target = row.argmax([=](C z, int64_t k) {
      const C value = sign * z;
      return k == label ? lowest * 2 : value < lowest ? lowest : value;  // -infinity is for the label alone
    }, static_cast<const T*>(a.logits), Indices{});
    row.store(a.targets, target);
  }
};

Status wrong_class_target(const Launch& launch, const WrongClassTargetArgs& args) {
  return for_logits<WrongClassTarget>(launch, args);
}

}  // namespace fastadv
