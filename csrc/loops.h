// What a kernel is written with. cpu/row.h and cuda/row.h are the only files that know a CPU loop from a CUDA block.
//
// A kernel is a functor `Body<T>`, T the element type: `body(row)` says what happens to one sample, a row of a
// [rows, cols] array. Arithmetic is written on values (float, or double for float64 data), never on memory:
//
//   row.map(out, f, sources...)        out[i] = f(values...)
//   row.sum, row.max, row.count        reductions of f(values...): in double, of non-negative values, of true ones
//   row.sum2                           two sums in one pass; f returns a Two
//   row.argmax(f, sources...)          where f is largest; the first of equal ones
//   row.hold<slot>(f, sources...)      f(values...) as a source: kept near, or computed again where the row does not fit
//   row.hold_sum<slot>(f, m, sources...)   the same, and the sum of m(f(values...)) in the same pass
//   row.store(out, value)              one value a row
//   row.sync()                         between a map and reading what it wrote, or holding anew the slot that it read;
//                                      reductions and hold end with one
//
// A source is a pointer to a [rows, cols] array, a held row, Indices (the element's number), or Fours (random words).
//
// for_each<Body>(launch, args) cuts rows into segments, so it takes elementwise bodies only; for_rows<Body, slots>
// hands over whole rows, with room for `slots` held ones. partition<Body> hands over every row of the batch in order and
// sorts their numbers by what the body returns. A body may declare prepare(batch), which sees per-sample values as
// one row, before its first row.
#pragma once

#include "number.h"

namespace fastadv {

struct Two {
  double a, b;
};

template <class H>
struct Summed {
  H values;
  double sum;
};

// The number of each element of the row, from 0.
struct Indices {};

// Four 32-bit words from each draw(block): elements 4 * block to 4 * block + 3.
struct Words {
  uint32_t word[4];
};
template <class Draw>
struct Fours {
  Draw draw;
};

template <class Body, class = void>
struct Prepares : std::false_type {};
template <class Body>
struct Prepares<Body, std::void_t<decltype(&Body::prepare)>> : std::true_type {};

}  // namespace fastadv

#ifdef FASTADV_CUDA
#include "cuda/row.h"
#else
#include "cpu/row.h"
#endif
