#include "cpu.h"

#if defined(__aarch64__) && defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#elif defined(__aarch64__) && defined(__APPLE__)
#include <sys/sysctl.h>
#endif

namespace {

uint32_t when(bool present, lilliput_cpu_feature feature) { return present ? static_cast<uint32_t>(feature) : 0u; }

#if (defined(__x86_64__) || defined(__i386__)) && (defined(__GNUC__) || defined(__clang__))

uint32_t ask() {
  __builtin_cpu_init();
  return when(__builtin_cpu_supports("avx2"), lilliput_cpu_avx2) |
         when(__builtin_cpu_supports("fma"), lilliput_cpu_fma) |
         when(__builtin_cpu_supports("avx512f"), lilliput_cpu_avx512f) |
         when(__builtin_cpu_supports("avx512vnni"), lilliput_cpu_avx512_vnni) |
         when(__builtin_cpu_supports("avx512vpopcntdq"), lilliput_cpu_avx512_vpopcntdq) |
         when(__builtin_cpu_supports("avx512bw"), lilliput_cpu_avx512bw) |
         when(__builtin_cpu_supports("avx512bitalg"), lilliput_cpu_avx512_bitalg);
}

#elif defined(__aarch64__)

bool has_dotprod() {
#if defined(__linux__)
  return (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0;
#elif defined(__APPLE__)
  int present = 0;
  size_t size = sizeof present;
  return sysctlbyname("hw.optional.arm.FEAT_DotProd", &present, &size, nullptr, 0) == 0 && present != 0;
#else
  return false;
#endif
}

// NEON is part of every 64-bit ARM processor.
uint32_t ask() { return lilliput_cpu_neon | when(has_dotprod(), lilliput_cpu_dotprod); }

#else

uint32_t ask() { return when(false, lilliput_cpu_avx2); }

#endif

}  // namespace

extern "C" uint32_t lilliput_cpu_features(void) {
  static const uint32_t found = ask();
  return found;
}
