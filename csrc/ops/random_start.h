// x plus noise of size eps, drawn by a counter: Philox4x32-10 (Salmon et al., SC 2011) keyed by the seed, counting
// (block of four elements, restart, sample id). A sample's noise depends on nothing else.
#pragma once

#include "rows.h"

namespace fastadv {

struct Philox {
  uint64_t seed, id;
  uint32_t restart;

  FASTADV_FN Words operator()(int64_t block) const {
    uint32_t c0 = static_cast<uint32_t>(block), c1 = restart;
    uint32_t c2 = static_cast<uint32_t>(id), c3 = static_cast<uint32_t>(id >> 32);
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
    return Words{{c0, c1, c2, c3}};
  }
};

// 24 of the bits as an odd multiple of 2^-24 in (-1, 1): symmetric, never 0, and exact in every compute type.
FASTADV_FN float uniform(uint32_t bits) {
  const int32_t odd = 2 * static_cast<int32_t>(bits >> 8) + 1 - (1 << 24);
  return static_cast<float>(odd) * static_cast<float>(1.0 / (1 << 24));
}

// Natural logarithm of a normal number, within two units in the last place (Cephes' logf): every device gives the same
// bits, and the loop vectorises.
FASTADV_FN float logarithm(float v) {
  const uint32_t bits = bits_as<uint32_t>(v), offset = bits - 0x3F3504F3u;  // from the root of 1/2 on
  const float exponent = static_cast<float>(static_cast<int32_t>(offset) >> 23);
  const float x = bits_as<float>((offset & 0x007FFFFFu) + 0x3F3504F3u) - 1.0f, square = x * x;
  float p = 7.0376836292e-2f;
  p = p * x - 1.1514610310e-1f;
  p = p * x + 1.1676998740e-1f;
  p = p * x - 1.2420140846e-1f;
  p = p * x + 1.4249322787e-1f;
  p = p * x - 1.6668057665e-1f;
  p = p * x + 2.0000714765e-1f;
  p = p * x - 2.4999993993e-1f;
  p = p * x + 3.3333331174e-1f;
  const float tail = p * x * square + exponent * -2.12194440e-4f - 0.5f * square;
  return x + tail + exponent * 0.693359375f;
}

// A standard normal number from a uniform one in (-1, 1): the inverse error function of Giles (GPU Computing Gems, 2011).
FASTADV_FN float normal(float u) {
  const float w = -logarithm((1.0f - u) * (1.0f + u));
  const float middle = w - 2.5f, tail = sqrtf(w) - 3.0f;
  float p = 2.81022636e-08f, q = -0.000200214257f;
  p = p * middle + 3.43273939e-07f, q = q * tail + 0.000100950558f;
  p = p * middle - 3.5233877e-06f, q = q * tail + 0.00134934322f;
  p = p * middle - 4.39150654e-06f, q = q * tail - 0.00367342844f;
  p = p * middle + 0.00021858087f, q = q * tail + 0.00573950773f;
  p = p * middle - 0.00125372503f, q = q * tail - 0.0076224613f;
  p = p * middle - 0.00417768164f, q = q * tail + 0.00943887047f;
  p = p * middle + 0.246640727f, q = q * tail + 1.00167406f;
  p = p * middle + 1.50140941f, q = q * tail + 2.83297682f;
  return (w < 5.0f ? p : q) * u * 1.41421356f;
}

// A number of the double-sided exponential distribution from a uniform one in (-1, 1).
FASTADV_FN float laplace(float u) {
  const float size = -logarithm(magnitude(u));
  return u < 0 ? -size : size;
}

template <class T, Law law>
struct RandomStart {
  RandomStartArgs a;
  using C = compute_t<T>;

  template <class Row>
  FASTADV_FN void operator()(const Row& row) const {
    const auto x = row.ahead(static_cast<const T*>(a.x));
    T* out = static_cast<T*>(a.out);
    if (a.active && !a.active[row.index]) {
      row.map(out, [](C origin) { return origin; }, x);
      return;
    }
    const C eps = at<C>(a.eps, row.index), lo = static_cast<C>(a.lo), hi = static_cast<C>(a.hi);
    const Philox random{static_cast<uint64_t>(a.seed), static_cast<uint64_t>(a.ids[row.index]),
                        static_cast<uint32_t>(a.restart)};
    const Fours<Philox> words{random};
    if constexpr (law == Law::l2 || law == Law::l1) {
      // Uniform in a ball: a direction, and a radius that the dimension pushes towards the surface.
      using Norm = std::conditional_t<law == Law::l2, L2, L1>;
      const auto noise = row.template hold_sum<0>([](uint32_t bits) { return draw(bits); }, Norm{}, words);
      const double u = 0.5 + 0.5 * static_cast<double>(uniform(random(kRadiusBlock).word[0]));
      const double radius = pow(u, 1.0 / static_cast<double>(row.cols));
      const C scale = static_cast<C>(static_cast<double>(eps) * radius / Norm::norm(noise.sum));
      row.map(out, [=](C origin, C n) { return clamp(origin + scale * n, lo, hi); }, x, noise.values);
    } else {
      row.map(out, [=](C origin, uint32_t bits) { return clamp(origin + eps * draw(bits), lo, hi); }, x, words);
    }
  }

 private:
  static constexpr int64_t kRadiusBlock = 0xFFFFFFFF;  // beyond the elements of any sample

  FASTADV_FN static C draw(uint32_t bits) {
    if constexpr (law == Law::uniform) return C(uniform(bits));
    if constexpr (law == Law::sign) return bits >> 31 ? C(1) : C(-1);
    if constexpr (law == Law::l1) return C(laplace(uniform(bits)));
    return C(normal(uniform(bits)));
  }
};

template <Law law>
struct Start {
  template <class T>
  using Body = RandomStart<T, law>;
};

Status random_start(const Launch& launch, const RandomStartArgs& args) {
  switch (args.law) {
    case Law::uniform:
      return for_rows<Start<Law::uniform>::Body>(launch, args);
    case Law::sign:
      return for_rows<Start<Law::sign>::Body>(launch, args);
    case Law::gaussian:
      return for_rows<Start<Law::gaussian>::Body>(launch, args);
    case Law::l2:  // measured before it is scaled, so its noise is held
      return for_rows<Start<Law::l2>::Body, 1>(launch, args);
    default:
      return for_rows<Start<Law::l1>::Body, 1>(launch, args);
  }
}

}  // namespace fastadv
