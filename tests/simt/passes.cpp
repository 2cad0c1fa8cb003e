// Calls every function of csrc/cpu/passes.h on memory of exactly the size that it may touch, for AddressSanitizer.
#include <cstdio>
#include <cstdlib>
#include <memory>

#include "cpu/max_pool.h"
#include "cpu/stem_backward.h"
#include "cpu/stem_weight_backward.h"

using namespace fastadv;

namespace {

struct Memory {
  std::unique_ptr<void, void (*)(void*)> all;
  void* get() const { return all.get(); }
};
template <class T>
Memory filled(int64_t count) {
  T* const all = static_cast<T*>(std::malloc(count * sizeof(T)));
  for (int64_t i = 0; i < count; ++i) all[i] = narrow<T>(static_cast<compute_t<T>>((i * 7 % 13) - 6));
  return {{all, std::free}};
}

template <class T>
void pools(Dtype dtype, const Images& x) {
  const int64_t size = x.samples * x.channels * x.height * x.width;
  const int64_t made = x.samples * x.channels * (x.height / 2) * (x.width / 2);
  const Memory from = filled<T>(size), out = filled<T>(made), grad = filled<T>(made), back = filled<T>(size);
  max_pool(dtype, x, {from.get(), out.get()});
  max_pool_backward(dtype, x, {grad.get(), from.get(), back.get()});
}

template <class T>
void stems(Dtype dtype, const Images& x, int64_t channels, const int64_t (&kernel)[2], const int64_t (&padding)[2]) {
  Images grad = x;
  grad.channels = channels;
  grad.height += 2 * padding[0] - kernel[0] + 1;
  grad.width += 2 * padding[1] - kernel[1] + 1;
  if (grad.height < 1 || grad.width < 1) return;
  const Memory slopes = filled<T>(x.samples * channels * grad.height * grad.width);
  const Memory weights = filled<T>(channels * x.channels * kernel[0] * kernel[1]);
  const Memory out = filled<T>(x.samples * x.channels * x.height * x.width);
  stem_backward(dtype, grad, x, {slopes.get(), weights.get(), out.get(), kernel[0], kernel[1], padding[0], padding[1]});
  stem_weight_backward(dtype, grad, x, {slopes.get(), out.get(), weights.get(), kernel[0], kernel[1], padding[0], padding[1]});
}

}  // namespace

int main() {
  int64_t calls = 0;
  for (Dtype dtype : {Dtype::float32, Dtype::float64, Dtype::float16, Dtype::bfloat16})
    dispatch(dtype, [&](auto* type) {
      using T = std::remove_pointer_t<decltype(type)>;
      for (bool channels_last : {false, true})
        for (int64_t samples : {0, 1, 3})
          for (int64_t channels : {1, 2, 3})
            for (int64_t height : {2, 5, 28})
              for (int64_t width : {3, 16, 17, 34}) {
                const Images x{samples, channels, height, width, channels_last};
                pools<T>(dtype, x);
                pools<T>(dtype, {samples, 11 * channels, height, width, channels_last});
                for (int64_t out : {1, 9}) {
                  stems<T>(dtype, x, out, {1, 1}, {0, 0});
                  stems<T>(dtype, x, out, {5, 5}, {2, 2});
                  stems<T>(dtype, x, out, {2, 7}, {1, 3});
                  stems<T>(dtype, x, out, {3, 4}, {2, 0});
                }
                ++calls;
              }
      return kOk;
    });
  std::printf("%lld\n", static_cast<long long>(calls));
}
