// Lets kernels that were compiled on a newer system load from glibc 2.28 on, as PyTorch does: a wheel is built wherever g++ is.
// Calls of these names go to the definitions here, which no other library sees.
#include <features.h>

#if defined(__GLIBC__) && defined(__x86_64__)

extern "C" {

// The newer exp, log and pow, of glibc 2.29, differ in errno only, which nothing here reads.
#define FASTADV_OLD(type, name, parameters, arguments)    \
  __asm__(".symver old_" #name "," #name "@GLIBC_2.2.5"); \
  type old_##name parameters;                             \
  type name parameters { return old_##name arguments; }

FASTADV_OLD(double, exp, (double x), (x))
FASTADV_OLD(double, log, (double x), (x))
FASTADV_OLD(double, pow, (double x, double y), (x, y))
// Headers of PyTorch 2.14 and of CUDA call it. glibc 2.34 moved it from libdl, which PyTorch loads where there is one.
FASTADV_OLD(void*, dlsym, (void* handle, const char* name), (handle, name))

// libstdc++ asks glibc 2.32 whether shared_ptr may count without atomics: it may not.
char __libc_single_threaded = 0;
}

#endif
