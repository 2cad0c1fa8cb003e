// Lets kernels that were compiled on a newer system load from glibc 2.28 on, as PyTorch does: a wheel is built wherever g++ is.
// Calls of these names go to the definitions here, which no other library sees.
#include <features.h>

#if defined(__GLIBC__) && defined(__x86_64__)

extern "C" {

// The versions of glibc 2.29 differ in errno only, which nothing here reads.
#define FASTADV_OLD(name, parameters, arguments)       \
  __asm__(".symver old_" #name "," #name "@GLIBC_2.2.5"); \
  double old_##name parameters;                        \
  double name parameters { return old_##name arguments; }

FASTADV_OLD(exp, (double x), (x))
FASTADV_OLD(log, (double x), (x))
FASTADV_OLD(pow, (double x, double y), (x, y))

// libstdc++ asks glibc 2.32 whether shared_ptr may count without atomics: it may not.
char __libc_single_threaded = 0;
}

#endif
