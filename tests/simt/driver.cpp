// Calls every function of csrc/kernels.h, without torch, on memory of exactly the size that it may touch, and prints
// two hashes of that memory after each call: `op variant dtype shape bits floats`. The first is the same in every order
// of threads and under every sanitizer. The second is of the values as float32, so that sums of doubles may be taken in
// any order: the same whatever the alignment, wherever rows are held, and on the CPU. `driver [OP [far|long]]` picks one op;
// - is any. `far` puts so many rows, or elements of the one row, before these that they lie beyond the 2^31st element of their
// arrays, in memory that is never touched: the hashes stay the same, but cover only ops that need not look at all rows.
// `long` takes rows that no block of sm_80 can hold, and one that no cluster of sm_90 can.
#include <sys/mman.h>

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
WEAK(hyperplane_projection) WEAK(loss_gradient) WEAK(predictions) WEAK(keep_nearest) WEAK(accept) WEAK(apgd_step)
WEAK(adam_step) WEAK(fab_step) WEAK(l0_step) WEAK(sparse_l1_step) WEAK(l0_adam_step)
}  // namespace fastadv

extern void* simt_stream __attribute__((weak));  // of the simulator; none on the CPU

using namespace fastadv;

namespace {

// [rows, cols], and by how many elements the first, second, ... array misses a 16-byte boundary.
struct Shape {
  int64_t rows, cols;
  std::vector<int64_t> shifts;
};

// Rows of a warp each: none, empty, fewer and more than a block takes. Rows of a block each, which hold them in registers, and
// longer ones: for the last, kernels ask for shared memory, and for clusters. Rows in arrays that are aligned differently.
const std::vector<Shape> kShapes = {
    {0, 7, {0}},         {3, 0, {0}},         {5, 10, {0}},  {9, 129, {0}}, {10, 64, {0}},
    {10, 64, {1, 0, 2}}, {10, 64, {0, 2, 1}}, {2, 517, {0}}, {2, 520, {0}}, {2, 520, {1}},
    {2, 520, {1, 0, 2}}, {2, 520, {0, 2, 1}}, {2, 520, {1, 2, 0}}, {1, 3072, {0}}, {2, 4107, {0, 1}},
    {1, 16500, {0}},
};
const std::vector<Shape> kLong = {{1, 45001, {0}}, {1, 1000000, {0}}};
const std::vector<Shape> kLogits = {
    {0, 7, {0}}, {1, 2, {1}}, {5, 10, {0}}, {9, 129, {0}}, {2, 600, {0}}, {2, 600, {1}},
};
const std::vector<Shape> kNumbers = {{0, 1, {0}}, {5, 1, {0}}, {70, 1, {1}}};
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

// How many rows, or elements of the only row, lie before those that are looked at.
struct Before {
  int64_t rows = 0, cols = 0;
};

// `bytes` of memory: not a byte more, for AddressSanitizer; or, if most of it is never touched, none but what is.
std::shared_ptr<void> memory(size_t bytes, bool sparse) {
  if (!sparse) return {std::malloc(bytes), std::free};
  constexpr int kind = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
  return {mmap(nullptr, bytes, PROT_READ | PROT_WRITE, kind, -1, 0), [=](void* at) { munmap(at, bytes); }};
}

// The arrays of one call.
template <class T>
class Memory {
 public:
  using C = compute_t<T>;

  Memory(const Shape& shape, Before before) : shape_(shape), before_(before) {}

  // So many elements a row.
  template <class U, class F>
  U* array(int64_t each, F value) {
    return place<U>(shape_.rows * each, before_.rows * each + (each == shape_.cols ? before_.cols : 0), value);
  }

  // [rows, cols] of the sample's type, or of `U`.
  template <class U = T>
  U* samples(double low, double high, int64_t times = 1) {
    const uint64_t seed = made_ << 32;
    return array<U>(times * shape_.cols, [=](int64_t i) {
      return narrow<U>(static_cast<compute_t<U>>(low + (high - low) * random(seed + i)));
    });
  }
  // With NaN, infinity and equal entries: multiples of 1/8.
  template <class U = T>
  U* broken(int64_t every = 131) {
    return array<U>(shape_.cols, [=](int64_t i) {
      const double value = i % every == 7 ? NAN : i % every == 8 ? INFINITY : std::floor(random(i) * 33 - 16) / 8;
      return narrow<U>(static_cast<compute_t<U>>(value));
    });
  }
  template <class U>
  U* unset(int64_t each) {
    return array<U>(each, [](int64_t) {
      if constexpr (std::is_integral_v<U>) return static_cast<U>(-1);
      else return narrow<U>(static_cast<compute_t<U>>(NAN));
    });
  }
  int64_t* one() {
    return place<int64_t>(1, 0, [](int64_t) { return -1; });
  }
  PerSample column(std::initializer_list<double> cycle) {
    const std::vector<double> values = cycle;
    return {array<C>(1, [=](int64_t i) { return static_cast<C>(values[i % values.size()]); }), 1};
  }
  bool* mask() {
    return array<bool>(1, [](int64_t i) { return i % 4 != 1; });
  }
  bool* flags() {
    return array<bool>(1, [](int64_t) { return false; });
  }
  int64_t* integers(int64_t below) {
    return array<int64_t>(1, [=](int64_t i) { return i * 7 % below; });
  }

  unsigned long long hash(bool as_float) const {
    uint64_t hash = 0;
    for (const Array& array : arrays_) hash = array.hash(as_float, hash);
    return hash;
  }

 private:
  // `count` elements after as many as are skipped, whose values do not matter.
  template <class U, class F>
  U* place(int64_t count, int64_t skipped, F value) {
    const int64_t shift = shape_.shifts[made_++ % shape_.shifts.size()];
    const std::shared_ptr<void> all = memory((shift + skipped + count) * sizeof(U), skipped > 0);
    U* const array = static_cast<U*>(all.get()) + shift;
    U* const seen = array + skipped;
    for (int64_t i = 0; i < count; ++i) seen[i] = value(i);
    arrays_.push_back({all, [=](bool as_float, uint64_t hash) {
      for (int64_t i = 0; i < count; ++i) hash = mixed(hash ^ bits(seen[i], as_float));
      return hash;
    }});
    return array;
  }

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
  Before before_;
  std::vector<Array> arrays_;
  size_t made_ = 0;
};

std::string only = "-";  // this op
bool far = false, longer = false;

// What to put before the samples of an op for them to be far; nothing where it would take all of it into account.
Before distance(const std::string& op, const std::string& variant, const Shape& shape) {
  const bool elementwise = op == "bisect_step" || op == "cutoff_scale" || op == "adam_step" ||
                           (op == "linf_step" && variant == "sign") || (op == "apgd_step" && variant[1] == 'i');
  const int64_t far = int64_t(1) << 31;
  if (shape.rows * shape.cols == 0 || op == "early_stop" || variant == "mean") return {};
  return shape.rows == 1 && elementwise ? Before{0, far} : Before{far / shape.cols + 1, 0};
}

// Makes the call for each shape and dtype: call(memory, launch).
template <class Call>
void each(const char* op, const std::string& variant, const std::vector<Shape>& shapes, Call call) {
  if (only != "-" && only != op) return;
  for (const Shape& shape : longer && &shapes == &kShapes ? kLong : shapes) {
    const Before before = far ? distance(op, variant, shape) : Before{};
    if (far && before.rows + before.cols == 0) continue;
    std::string name = std::to_string(shape.rows) + "x" + std::to_string(shape.cols);
    for (int64_t shift : shape.shifts) name += "+" + std::to_string(shift);
    for (Dtype dtype : {Dtype::float32, Dtype::float64, Dtype::float16, Dtype::bfloat16}) {
      // Offsets are the same in all types, and what is held in three of them.
      if ((far || longer) && dtype != Dtype::float32 && (far || dtype != Dtype::float64)) continue;
      dispatch(dtype, [&](auto* type) {
        const char* const dtypes[] = {"float32", "float64", "float16", "bfloat16"};
        std::printf("%s %s %s %s ", op, variant.c_str(), dtypes[static_cast<int>(dtype)], name.c_str());
        std::fflush(stdout);  // to be seen should the call abort
        Memory<std::remove_pointer_t<decltype(type)>> memory(shape, before);
        if (&simt_stream) simt_stream = &memory;
        const Status status =
            call(memory, Launch{dtype, before.rows + shape.rows, before.cols + shape.cols, &memory});
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
                                m.column({0.2, 0.1, NAN, 0}), 0, 1, m.mask(), m.flags(),
                                momentum ? m.samples(-1, 1) : nullptr, 0.5});
    });
}

void balls() {
  const auto step = [](auto op) {
    return [=](auto& m, const Launch& launch) {
      return op(launch, BallStepArgs{m.samples(0, 1), m.broken(), m.samples(0, 1), m.column({5, -5, 0}),
                                     m.column({3, 0.1, 0, NAN, INFINITY}), 0, 1, m.mask(), m.flags()});
    };
  };
  each("l2_step", "-", kShapes, step(l2_step));
  each("l1_step", "-", kShapes, step(l1_step));
}

void sparse() {
  // Few and many of the entries, of which in the first case many are equal.
  const auto step = [](auto op) {
    return [=](auto& m, const Launch& launch) {
      const int64_t channels = launch.cols % 3 == 0 && launch.cols ? 3 : 1;
      return op(launch, SparseStepArgs{m.samples(0, 1), m.broken(), m.samples(0, 1), m.column({5, -5, 0}),
                                       m.column({40, 3, 0, NAN, INFINITY}), m.column({7, 1e9, 0, NAN}), channels, 0, 1,
                                       m.mask(), m.flags()});
    };
  };
  each("l0_step", "-", kShapes, step(l0_step));
  each("sparse_l1_step", "-", kShapes, step(sparse_l1_step));
}

void topp() {
  // Shares of the entries: all; few of unequal ones; so many of few values that a tie is to be broken.
  for (int64_t share : {1, 3, 40})
    each("topp_step", "1/" + std::to_string(share), kShapes, [=](auto& m, const Launch& l) {
      const int64_t keep = (l.cols + share - 1) / share, channels = l.cols % 3 == 0 && l.cols ? 3 : 1;
      return topp_step(l, {m.samples(0, 1), share == 3 ? m.samples(-1, 1) : m.broken(), m.samples(0, 1),
                           m.column({5, -5, 0}), m.column({3, 0.1, 0, INFINITY}), keep, channels, share == 3,
                           share != 1, 0, 1, m.mask(), m.flags()});
    });
}

void norms() {
  const char* const names[] = {"l1", "l2", "linf", "rms", "l0"};
  for (Norm norm : {Norm::l1, Norm::l2, Norm::linf, Norm::rms, Norm::l0})
    for (bool origin : {false, true})
      each("row_norms", std::string(names[static_cast<int>(norm)]) + (origin ? "/origin" : ""), kShapes,
           [=](auto& m, const Launch& launch) {
             using C = typename std::remove_reference_t<decltype(m)>::C;
             return row_norms(launch, {norm == Norm::linf ? m.broken(5000) : m.samples(-1, 1),
                                       origin ? m.samples(0, 1) : nullptr, m.template unset<C>(1), norm});
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
      return early_stop(launch, {m.broken(), m.integers(launch.cols), m.integers(3), all ? nullptr : m.mask(),
                                 m.template unset<int64_t>(1), m.template unset<bool>(1),
                                 m.template unset<int64_t>(1), m.one()});
    });
}

void deepfool() {
  for (bool linf : {false, true})
    each("deepfool_step", linf ? "linf" : "l2", kShapes, [=](auto& m, const Launch& launch) {
      using C = typename std::remove_reference_t<decltype(m)>::C;
      const int64_t classes = 3;
      const auto logits = [](int64_t i) { return static_cast<C>(random(i)); };
      return deepfool_step(launch, {m.samples(0, 1), m.template samples<C>(-0.1, 0.1), m.samples(0, 1),
                                    m.template array<C>(classes, logits), m.samples(-1, 1, classes),
                                    m.integers(classes + 1), classes, 0.02, 1e-4, linf, 0, 1,
                                    m.mask(), m.flags(), m.template unset<int64_t>(1), m.template unset<C>(1)});
    });
}

void bisect() {
  each("bisect_step", "-", kShapes, [](auto& m, const Launch& launch) {
    const auto inside = [](int64_t i) { return i % 3 != 0; };
    return bisect_step(launch, {m.samples(0, 1), m.samples(0, 1), m.samples(0, 1),
                                m.template array<bool>(1, inside), m.mask()});
  });
}

void start() {
  const char* const names[] = {"uniform", "sign", "gaussian", "l2", "l1"};
  for (Law law : {Law::uniform, Law::sign, Law::gaussian, Law::l2, Law::l1})
    each("random_start", names[static_cast<int>(law)], kShapes, [=](auto& m, const Launch& launch) {
      using T = std::remove_pointer_t<decltype(m.samples(0, 1))>;
      return random_start(launch, {m.template unset<T>(launch.cols), m.samples(0, 1), m.integers(1 << 20),
                                   m.column({0.3, 0.1, 0, INFINITY}), 12345, 3, law, 0, 1, m.mask()});
    });
}

void labels() {
  for (bool sup : {false, true})
    for (int64_t top_k : {0, 2})
      each("adversarial_labels", (sup ? "sup/" : "main/") + std::to_string(top_k), kLogits,
           [=](auto& m, const Launch& launch) {
             using C = typename std::remove_reference_t<decltype(m)>::C;
             return adversarial_labels(launch, {m.template unset<C>(launch.cols), m.broken(1 << 30),
                                                m.integers(launch.cols), 9, 0.01, sup, top_k});
           });
}

void targets() {
  for (bool least : {false, true})
    each("wrong_class_target", least ? "least" : "most", kLogits, [=](auto& m, const Launch& launch) {
      return wrong_class_target(
          launch, {m.template unset<int64_t>(1), m.broken(), m.integers(launch.cols), least});
    });
}

void hyperplane() {
  const char* const names[] = {"l1", "l2", "linf"};
  for (Norm norm : {Norm::l1, Norm::l2, Norm::linf})
    each("hyperplane_projection", names[static_cast<int>(norm)], kShapes, [=](auto& m, const Launch& launch) {
      using T = std::remove_pointer_t<decltype(m.samples(0, 1))>;
      return hyperplane_projection(launch, {m.template unset<T>(launch.cols), m.samples(0, 1), m.broken(),
                                            m.column({0.5, -3, 1e9, NAN}), norm, 0, 1});
    });
}

void losses() {
  const char* const names[] = {"ce", "margin", "slm", "dlr", "pm", "kl", "spat", "dlr/goal"};
  for (int which = 0; which < 8; ++which)
    each("loss_gradient", names[which], kLogits, [=](auto& m, const Launch& launch) {
      const Loss loss = which == 7 ? Loss::dlr : static_cast<Loss>(which);
      using T = std::remove_pointer_t<decltype(m.samples(0, 1))>;
      using C = typename std::remove_reference_t<decltype(m)>::C;
      return loss_gradient(launch, {loss == Loss::margin ? m.broken() : m.samples(-4, 4), m.integers(launch.cols),
                                    m.column({1, -1}), m.samples(-4, 4), which == 7 ? m.integers(launch.cols + 1) : nullptr,
                                    loss, 0.5, 2, 0.1, m.template unset<T>(launch.cols), m.template unset<C>(1),
                                    m.template unset<bool>(1), m.flags()});
    });
  each("predictions", "-", kLogits, [=](auto& m, const Launch& launch) {
    return predictions(launch, {m.template unset<int64_t>(1), m.broken()});
  });
}

void best() {
  const char* const names[] = {"l1", "l2", "linf", "rms", "l0"};
  for (Norm norm : {Norm::l1, Norm::l2, Norm::linf, Norm::rms, Norm::l0})
    each("keep_nearest", names[static_cast<int>(norm)], kShapes, [=](auto& m, const Launch& launch) {
      return keep_nearest(launch, {m.samples(0, 1), const_cast<void*>(m.column({1e9, 0, 1e9}).data), m.samples(0, 1),
                                   m.samples(0, 1), m.mask(), norm, m.mask()});
    });
  each("accept", "-", kNumbers, [](auto& m, const Launch& launch) {
    return accept(launch, {m.samples(0, 1), m.samples(0, 1), m.mask(), m.mask(), m.template unset<bool>(1),
                           m.template unset<bool>(1)});
  });
}

void other_steps() {
  for (bool l2 : {false, true})
    for (double share : {1.0, 0.75})
      each("apgd_step", (l2 ? "l2/" : "linf/") + std::to_string(share), kShapes, [=](auto& m, const Launch& launch) {
        return apgd_step(launch, {m.samples(0, 1), m.samples(0, 1), m.broken(), m.samples(0, 1), m.column({0.1, -0.1, 5}),
                                  m.column({0.2, 3, NAN, 0}), share, l2, 0, 1, m.mask(), m.flags()});
      });
  each("adam_step", "-", kShapes, [](auto& m, const Launch& launch) {
    using C = typename std::remove_reference_t<decltype(m)>::C;
    return adam_step(launch, {m.samples(0, 1), m.template samples<C>(-0.1, 0.1), m.template samples<C>(0, 0.1), m.broken(),
                              m.samples(-1, 1), m.column({0.5, 2}), m.column({0.01, 0.1}), 0.9, 0.999, 0.1, 0.001, 1e-8, 0,
                              1, m.mask(), m.flags()});
  });
  each("l0_adam_step", "-", kShapes, [](auto& m, const Launch& launch) {
    using C = typename std::remove_reference_t<decltype(m)>::C;
    return l0_adam_step(launch, {m.samples(0, 1), m.template samples<C>(-0.1, 0.1), m.template samples<C>(0, 0.1), m.broken(),
                                 m.samples(0, 1), m.column({0.3, 0}), m.column({0.01, 0.1}), 1, 0.001,
                                 0.002 / static_cast<double>(launch.cols + 1), 0.9, 0.999, 0.1, 0.001, 1e-8, 0, 1, m.mask(),
                                 m.flags()});
  });
  const char* const names[] = {"l1", "l2", "linf"};
  for (Norm norm : {Norm::l1, Norm::l2, Norm::linf})
    each("fab_step", names[static_cast<int>(norm)], kShapes, [=](auto& m, const Launch& launch) {
      return fab_step(launch, {m.samples(0, 1), m.samples(0, 1), m.broken(), m.column({0.5, -3, 1e9, NAN}), norm, 0.1, 1.05,
                               0, 1, m.mask(), m.flags()});
    });
}

}  // namespace

int main(int, char** arguments) {
  for (int i = 1; arguments[i]; ++i) {
    const std::string argument = arguments[i];
    argument == "far" ? void(far = true) : argument == "long" ? void(longer = true) : void(only = argument);
  }
  linf(), balls(), sparse(), topp(), norms(), cutoff(), stop(), deepfool();
  bisect(), start(), labels(), targets(), hyperplane(), losses(), best(), other_steps();
}
