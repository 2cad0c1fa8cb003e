// PGD-K-tau's bookkeeping (FAT, Algorithm 1), before a step: who is misclassified, who has used up tau, who goes on.
#pragma once

#include "predictions.h"

namespace fastadv {

template <class T>
struct EarlyStop {
  EarlyStopArgs a;

  // Whether the sample goes on.
  template <class Row>
  FASTADV_FN bool operator()(const Row& row) const {
    const int64_t predicted = prediction(row, static_cast<const T*>(a.logits));
    const bool was_active = !a.active_before || a.active_before[row.index];
    const bool wrong = predicted != a.labels[row.index];
    const int64_t left = a.tau[row.index];
    const bool goes_on = was_active && !(wrong && left <= 0);
    row.sync();  // everyone has read tau
    row.store(a.predictions, predicted);
    row.store(a.active, static_cast<int64_t>(goes_on));
    if (goes_on && wrong) row.store(a.tau, left - 1);
    return goes_on;
  }
};

Status early_stop(const Launch& launch, const EarlyStopArgs& args) {
  return partition<EarlyStop>(launch, args, args.order, args.count);
}

}  // namespace fastadv
