// What a kernel is written with. cpu/row.h and cuda/row.h are the only files that know a CPU loop from a CUDA block.
//
// A kernel is a functor `Body<T>`, T the element type: `body(row)` says what happens to one sample, a row of a
// [rows, cols] array; of what type the row is depends on its length. Arithmetic is written on values (float, or double for
// float64 data), never on memory:
//
//   row.map(out, f, sources...)        out[i] = f(values...)
//   row.map_any(out, f, bad, sources...)   the same; whether bad(values...) was true of an element that this thread saw
//   row.sum, row.max, row.count        reductions of f(values...): in double, of non-negative values, of true ones
//   row.sum2                           two sums in one pass; f returns a Two
//   row.argmax(f, sources...)          where f is largest; the first of equal ones
//   row.reached(least, f, sources...)  of non-negative values: one that at least so many reach, and how many do. That is as many
//                                      as asked for where any value does it; else the largest value that enough reach. Negative
//                                      ones reach nothing but 0
//   row.ahead(source)                  the same source, under way: what comes before the first reduction is waited for together
//   row.hold<slot>(f, sources...)      f(values...) as a source: kept near, or computed again where the row does not fit
//   row.hold_sum<slot>(f, m, sources...)   the same, and the sum of m(f(values...)) in the same pass
//   row.store(out, value)              one value a row
//   row.flag(out)                      the same, true; null is nowhere; of threads that share a row, any may
//   row.sync()                         between reading one value a row and storing another in its place; reductions end with one
//
// An element is one thread's in every walk: a later walk may read what a map wrote, or hold anew a slot that it reads. What a held
// row is made of is not written while the row is needed.
//
// A source is a pointer to a [rows, cols] array, what row.ahead or a row.hold returned, Indices (the element's number, of a type
// that is wide enough: Row::Number), or Fours (random words).
//
// for_each<Body>(launch, args) cuts rows into segments, so it takes elementwise bodies only; for_rows<Body, slots> hands over
// whole rows, with room for `slots` held ones; for_logits<Body, slots> does the same for rows of classes, which are few.
// partition<Body> hands over every row of the batch in order and sorts their numbers by what the body returns. A body may
// declare prepare(batch), which sees per-sample values as one row, before its first row.
#pragma once

#include "number.h"

namespace fastadv {

struct Two {
  double a, b;
};

template <class C>
struct Reached {
  C value;
  int64_t count;
};

template <class H>
struct Summed {
  H values;
  double sum;
};

// The number of each element of a whole row, from 0, as a Row::Number.
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
