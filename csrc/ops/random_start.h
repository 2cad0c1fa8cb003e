// x plus noise of size eps, drawn by a counter: Philox4x32-10 (Salmon et al., SC 2011) keyed by the seed, counting
// (block of four elements, restart, sample id). A sample's noise depends on nothing else.
#pragma once

#include "../loops.h"
#include "values.h"

namespace fastadv {

struct Philox {
  uint32_t word[4];

  FASTADV_FN static Philox draw(uint64_t seed, uint64_t id, uint32_t restart, uint32_t block) {
    uint32_t c0 = block, c1 = restart, c2 = static_cast<uint32_t>(id), c3 = static_cast<uint32_t>(id >> 32);
    uint32_t k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
    for (int round = 0; round < 10; ++round) {
      const uint64_t p0 = uint64_t(0xD2511F53u) * c0, p1 = uint64_t(0xCD9E8D57u) * c2;
      c0 = static_cast<uint32_t>(p1 >> 32) ^ c1 ^ k0;
      c1 = static_cast<uint32_t>(p1);
      c2 = static_cast<uint32_t>(p0 >> 32) ^ c3 ^ k1;
      c3 = static_cast<uint32_t>(p0);
      k0 += 0x9E3779B9u;
      k1 += 0xBB67AE85u;
    }
    return Philox{{c0, c1, c2, c3}};
  }
};

template <class T>
struct RandomStart {
  RandomStartArgs a;

  FASTADV_FN void operator()(const Row& row) const {
    using C = compute_t<T>;
    const T* x = static_cast<const T*>(a.x) + row.index * row.cols;
    T* out = static_cast<T*>(a.out) + row.index * row.cols;
    if (a.active && !a.active[row.index]) {
      row.each(row.cols, [=](int64_t i) { out[i] = x[i]; });
      return;
    }
    const C eps = at<C>(a.eps, row.index), lo = static_cast<C>(a.lo), hi = static_cast<C>(a.hi);
    const uint64_t seed = static_cast<uint64_t>(a.seed), id = static_cast<uint64_t>(a.ids[row.index]);
    const uint32_t restart = static_cast<uint32_t>(a.restart);
    const bool sign = a.law == Law::sign;
    const int64_t cols = row.cols;
    row.each((cols + 3) / 4, [=](int64_t block) {
      const Philox random = Philox::draw(seed, id, restart, static_cast<uint32_t>(block));
      for (int k = 0; k < 4 && 4 * block + k < cols; ++k) {
        const int64_t i = 4 * block + k;
        // 24 bits make an odd multiple of 2^-24 in (-1, 1): symmetric, and exact in every compute type.
        const int32_t odd = 2 * static_cast<int32_t>(random.word[k] >> 8) + 1 - (1 << 24);
        const C unit = sign ? static_cast<C>(odd > 0 ? 1 : -1) : static_cast<C>(odd) * static_cast<C>(1.0 / (1 << 24));
        out[i] = narrow<T>(clamp(load(x[i]) + eps * unit, lo, hi));
      }
    });
  }
};

Status random_start(const Launch& launch, const RandomStartArgs& args) {
  return dispatch(launch.dtype,
                  [&](auto* t) { return for_rows(launch, RandomStart<std::decay_t<decltype(*t)>>{args}); });
}

}  // namespace fastadv
