// The class of the highest logit, -1 where one is NaN.
#pragma once

#include "rows.h"

namespace fastadv {

// Every thread of the row gets it.
template <class Row, class T>
FASTADV_FN int64_t prediction(const Row& row, const T* logits) {
  const int64_t best = row.argmax([](compute_t<T> z) { return z; }, logits);  // NaN is the highest
  const compute_t<T> highest = load(logits[row.index * row.cols + best]);
  return highest == highest ? best : -1;
}

template <class T>
struct Predictions {
  PredictionsArgs a;

  template <class Row>
  FASTADV_FN void operator()(const Row& row) const {
    row.store(a.classes, prediction(row, static_cast<const T*>(a.logits)));
  }
};

Status predictions(const Launch& launch, const PredictionsArgs& args) { return for_logits<Predictions>(launch, args); }

}  // namespace fastadv
