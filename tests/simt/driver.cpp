// Calls every function of csrc/kernels.h, without torch, on memory of exactly the size that it may touch, and prints
// two hashes of that memory after each call: `op variant dtype shape bits floats`. The first is the same in every order
// of threads and under every sanitizer. The second is of the values as float32, so that sums of doubles may be taken in
// any order: the same whatever the alignment, whether rows are held or not, and on the CPU. An argument picks one op.
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <initializer_list>
#include <memory>
#include <string>
#include <vector>

#include "number.h"

namespace fastadv {
// Weak, so that the driver can be linked with the one op that it is asked for.
#define WEAK(op) decltype(op) op __attribute__((weak));
WEAK(linf_step) WEAK(l2_step) WEAK(l1_step) WEAK(topp_step) WEAK(row_norms) WEAK(cutoff_scale) WEAK(early_stop)
WEAK(deepfool_step) WEAK(bisect_step) WEAK(random_start) WEAK(adversarial_labels) WEAK(wrong_class_target)
WEAK(hyperplane_projection)
}  // namespace fastadv

using namespace fastadv;

namespace {

// [rows, cols], and by how many elements the first, second, ... array misses a 16-byte boundary.
struct Shape {
  int64_t rows, cols;
  std::vector<int64_t> shifts;
};

// Rows of a warp each: none, empty, fewer and more than a block takes. Rows of a block each: among them one of 48 KiB
// (held twice, in double), for which a kernel has to ask for shared memory, and some of two segments. Rows in arrays
// that are aligned differently, where one thread reads what another wrote.
const std::vector<Shape> kShapes = {
    {0, 7, {0}},         {3, 0, {0}},         {5, 10, {0}},  {9, 129, {0}}, {10, 64, {0}},
    {10, 64, {1, 0, 2}}, {10, 64, {0, 2, 1}}, {2, 517, {0}}, {2, 520, {0}}, {2, 520, {1}},
    {2, 520, {1, 0, 2}}, {2, 520, {0, 2, 1}}, {2, 520, {1, 2, 0}}, {1, 3072, {0}}, {2, 4107, {0, 1}},
};
const std::vector<Shape> kLogits = {
    {0, 7, {0}}, {1, 2, {1}}, {5, 10, {0}}, {9, 129, {0}}, {2, 600, {0}}, {2, 600, {1}},
};
const std::vector<Shape> kBatches = {
    {0, 7, {0}}, {1, 2, {1}}, {5, 10, {0}}, {9, 129, {0}}, {600, 9, {1}}, {1061, 3, {0}},
};

uint64_t mixed(uint64_t bits) {  // SplitMix64
  bits += 0x9E3779B97F4A7C15u;
  bits = (bits ^ bits >> 30) * 0xBF58476D1CE4E5B9u;
  bits = (bits ^ bits >> 27) * 0x94D049BB133111EBu;
  return bits ^ bits >> 31;
}
double random(uint64_t number) { return static_cast<double>(mixed(number) >> 11) * 0x1p-53; }  // in [0, 1)

// The arrays of one call.
template <class T>
class Memory {
 public:
  using C = compute_t<T>;

  explicit Memory(const Shape& shape) : shape_(shape) {}

  template <class U, class F>
  U* array(int64_t count, F value) {
    const int64_t shift = shape_.shifts[made_++ % shape_.shifts.size()];
    U* const all = static_cast<U*>(std::malloc((shift + count) * sizeof(U)));  // not a byte more, for AddressSanitizer
    U* const array = all + shift;
    for (int64_t i = 0; i < count; ++i) array[i] = value(i);
    arrays_.push_back({std::shared_ptr<void>(all, std::free), [=](bool as_float, uint64_t hash) {
      for (int64_t i = 0; i < count; ++i) hash = mixed(hash ^ bits(array[i], as_float));
      return hash;
    }});
    return array;
  }

  // [rows, cols] of the sample's type, or of `U`.
  template <class U = T>
  U* samples(double low, double high, int64_t times = 1) {
    const uint64_t seed = made_ << 32;
    return array<U>(times * shape_.rows * shape_.cols, [=](int64_t i) {
      return narrow<U>(static_cast<compute_t<U>>(low + (high - low) * random(seed + i)));
    });
  }
  // With NaN, infinity and equal entries: multiples of 1/8.
  template <class U = T>
  U* broken(int64_t every = 131) {
    return array<U>(shape_.rows * shape_.cols, [=](int64_t i) {
      const double value = i % every == 7 ? NAN : i % every == 8 ? INFINITY : std::floor(random(i) * 33 - 16) / 8;
      return narrow<U>(static_cast<compute_t<U>>(value));
    });
  }
  template <class U>
  U* unset(int64_t count) {
    return array<U>(count, [](int64_t) {
      if constexpr (std::is_integral_v<U>) return static_cast<U>(-1);
      else return narrow<U>(static_cast<compute_t<U>>(NAN));
    });
  }
  PerSample column(std::initializer_list<double> cycle) {
    const std::vector<double> values = cycle;
    return {array<C>(shape_.rows, [=](int64_t i) { return static_cast<C>(values[i % values.size()]); }), 1};
  }
  bool* mask() {
    return array<bool>(shape_.rows, [](int64_t i) { return i % 4 != 1; });
  }
  int64_t* integers(int64_t below) {
    return array<int64_t>(shape_.rows, [=](int64_t i) { return i * 7 % below; });
  }

  unsigned long long hash(bool as_float) const {
    uint64_t hash = 0;
    for (const Array& array : arrays_) hash = array.hash(as_float, hash);
    return hash;
  }

 private:
  template <class U>
  static uint64_t bits(U value, bool as_float) {
    if constexpr (std::is_integral_v<U>) {
      return static_cast<uint64_t>(value);
    } else {
      const double number = as_float ? static_cast<float>(load(value)) : load(value);
      return bits_as<uint64_t>(number == number ? number : NAN);
    }
  }

  struct Array {
    std::shared_ptr<void> memory;
    std::function<uint64_t(bool, uint64_t)> hash;
  };
  Shape shape_;
  std::vector<Array> arrays_;
  size_t made_ = 0;
};

std::string only;  // this op, if not empty

// Makes the call for each shape and dtype: call(memory, launch).
template <class Call>
void each(const char* op, const std::string& variant, const std::vector<Shape>& shapes, Call call) {
  if (!only.empty() && only != op) return;
  for (const Shape& shape : shapes) {
    std::string name = std::to_string(shape.rows) + "x" + std::to_string(shape.cols);
    for (int64_t shift : shape.shifts) name += "+" + std::to_string(shift);
    for (Dtype dtype : {Dtype::float32, Dtype::float64, Dtype::float16, Dtype::bfloat16}) {
      dispatch(dtype, [&](auto* type) {
        const char* const dtypes[] = {"float32", "float64", "float16", "bfloat16"};
        std::printf("%s %s %s %s ", op, variant.c_str(), dtypes[static_cast<int>(dtype)], name.c_str());
        std::fflush(stdout);  // to be seen should the call abort
        Memory<std::remove_pointer_t<decltype(type)>> memory(shape);
        const Status status = call(memory, Launch{dtype, shape.rows, shape.cols, nullptr});
        status == kOk ? std::printf("%016llx %016llx\n", memory.hash(false), memory.hash(true))
                      : std::printf("error %d\n", status);
        return kOk;
      });
    }
  }
}

void linf() {
  for (bool momentum : {false, true})
    each("linf_step", momentum ? "momentum" : "sign", kShapes, [=](auto& m, const Launch& launch) {
      return linf_step(launch, {m.samples(0, 1), m.broken(), m.samples(0, 1), m.column({0.1, -0.1, 5}),
                                m.column({0.2, 0.1, NAN, 0}), 0, 1, m.mask(),
                                momentum ? m.samples(-1, 1) : nullptr, 0.5});
    });
}

void balls() {
  const auto step = [](auto op) {
    return [=](auto& m, const Launch& launch) {
      return op(launch, BallStepArgs{m.samples(0, 1), m.broken(), m.samples(0, 1), m.column({5, -5, 0}),
                                     m.column({3, 0.1, 0, NAN, INFINITY}), 0, 1, m.mask()});
    };
  };
  each("l2_step", "-", kShapes, step(l2_step));
  each("l1_step", "-", kShapes, step(l1_step));
}

void topp() {
  // Shares of the entries: all; few of unequal ones; so many of few values that a tie is to be broken.
  for (int64_t share : {1, 3, 40})
    each("topp_step", "1/" + std::to_string(share), kShapes, [=](auto& m, const Launch& l) {
      const int64_t keep = (l.cols + share - 1) / share, channels = l.cols % 3 == 0 && l.cols ? 3 : 1;
      return topp_step(l, {m.samples(0, 1), share == 3 ? m.samples(-1, 1) : m.broken(), m.samples(0, 1),
                           m.column({5, -5, 0}), m.column({3, 0.1, 0, INFINITY}), keep, channels, share == 3,
                           share != 1, 0, 1, m.mask()});
    });
}

void norms() {
  const char* const names[] = {"l1", "l2", "linf", "rms"};
  for (Norm norm : {Norm::l1, Norm::l2, Norm::linf, Norm::rms})
    for (bool origin : {false, true})
      each("row_norms", std::string(names[static_cast<int>(norm)]) + (origin ? "/origin" : ""), kShapes,
           [=](auto& m, const Launch& launch) {
             using C = typename std::remove_reference_t<decltype(m)>::C;
             return row_norms(launch, {norm == Norm::linf ? m.broken(5000) : m.samples(-1, 1),
                                       origin ? m.samples(0, 1) : nullptr, m.template unset<C>(launch.rows), norm});
           });
}

void cutoff() {
  for (bool mean : {false, true})
    each("cutoff_scale", mean ? "mean" : "eps", kShapes, [=](auto& m, const Launch& launch) {
      return cutoff_scale(launch, {m.samples(0, 1), m.samples(0, 1), m.column({0.3, 0.1, NAN, 0, INFINITY}),
                                   mean ? PerSample{nullptr, 0} : m.column({0.2, 0.1, 3}), 0.7, m.mask()});
    });
}

void stop() {
  for (bool all : {false, true})
    each("early_stop", all ? "all" : "active", kBatches, [=](auto& m, const Launch& launch) {
      const int64_t rows = launch.rows;
      return early_stop(launch, {m.broken(), m.integers(launch.cols), m.integers(3), all ? nullptr : m.mask(),
                                 m.template unset<int64_t>(rows), m.template unset<bool>(rows),
                                 m.template unset<int64_t>(rows), m.template unset<int64_t>(1)});
    });
}

void deepfool() {
  for (bool linf : {false, true})
    each("deepfool_step", linf ? "linf" : "l2", kShapes, [=](auto& m, const Launch& launch) {
      using C = typename std::remove_reference_t<decltype(m)>::C;
      const int64_t classes = 3, rows = launch.rows;
      const auto logits = [](int64_t i) { return static_cast<C>(random(i)); };
      return deepfool_step(launch, {m.samples(0, 1), m.template samples<C>(-0.1, 0.1), m.samples(0, 1),
                                    m.template array<C>(rows * classes, logits), m.samples(-1, 1, classes),
                                    m.integers(classes + 1), classes, 0.02, 1e-4, linf, 0, 1,
                                    m.mask(), m.template unset<int64_t>(rows), m.template unset<C>(rows)});
    });
}

void bisect() {
  each("bisect_step", "-", kShapes, [](auto& m, const Launch& launch) {
    const auto inside = [](int64_t i) { return i % 3 != 0; };
    return bisect_step(launch, {m.samples(0, 1), m.samples(0, 1), m.samples(0, 1),
                                m.template array<bool>(launch.rows, inside), m.mask()});
  });
}

void start() {
  const char* const names[] = {"uniform", "sign", "gaussian", "l2", "l1"};
  for (Law law : {Law::uniform, Law::sign, Law::gaussian, Law::l2, Law::l1})
    each("random_start", names[static_cast<int>(law)], kShapes, [=](auto& m, const Launch& launch) {
      using T = std::remove_pointer_t<decltype(m.samples(0, 1))>;
      return random_start(launch, {m.template unset<T>(launch.rows * launch.cols), m.samples(0, 1), m.integers(1 << 20),
                                   m.column({0.3, 0.1, 0, INFINITY}), 12345, 3, law, 0, 1, m.mask()});
    });
}

void labels() {
  for (bool sup : {false, true})
    for (int64_t top_k : {0, 2})
      each("adversarial_labels", (sup ? "sup/" : "main/") + std::to_string(top_k), kLogits,
           [=](auto& m, const Launch& launch) {
             using C = typename std::remove_reference_t<decltype(m)>::C;
             return adversarial_labels(launch, {m.template unset<C>(launch.rows * launch.cols), m.broken(1 << 30),
                                                m.integers(launch.cols), 9, 0.01, sup, top_k});
           });
}

void targets() {
  for (bool least : {false, true})
    each("wrong_class_target", least ? "least" : "most", kLogits, [=](auto& m, const Launch& launch) {
      return wrong_class_target(
          launch, {m.template unset<int64_t>(launch.rows), m.broken(), m.integers(launch.cols), least});
    });
}

void hyperplane() {
  const char* const names[] = {"l1", "l2", "linf"};
  for (Norm norm : {Norm::l1, Norm::l2, Norm::linf})
    each("hyperplane_projection", names[static_cast<int>(norm)], kShapes, [=](auto& m, const Launch& launch) {
      using T = std::remove_pointer_t<decltype(m.samples(0, 1))>;
      return hyperplane_projection(launch, {m.template unset<T>(launch.rows * launch.cols), m.samples(0, 1), m.broken(),
                                            m.column({0.5, -3, 1e9, NAN}), norm, 0, 1});
    });
}

}  // namespace

int main(int, char** arguments) {
  if (arguments[1]) only = arguments[1];
  linf(), balls(), topp(), norms(), cutoff(), stop(), deepfool();
  bisect(), start(), labels(), targets(), hyperplane();
}
