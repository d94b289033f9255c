#include "pace.h"

#include <chrono>
#include <cstdint>

namespace {

constexpr int kRounds = 100000, kChain = 16;

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
#define LILLIPUT_ADD asm volatile("addq $1, %0" : "+r"(x));
#elif defined(__aarch64__) && (defined(__GNUC__) || defined(__clang__))
#define LILLIPUT_ADD asm volatile("add %0, %0, #1" : "+r"(x));
#endif

}  // namespace

extern "C" double lilliput_cycles_per_second(int tries) {
#ifdef LILLIPUT_ADD
  using Clock = std::chrono::steady_clock;
  double best = 0;
  uint64_t x = 0;
  for (int t = 0; t < tries; ++t) {
    const auto begun = Clock::now();
    for (int i = 0; i < kRounds; ++i) {
#define LILLIPUT_FOUR LILLIPUT_ADD LILLIPUT_ADD LILLIPUT_ADD LILLIPUT_ADD
      LILLIPUT_FOUR LILLIPUT_FOUR LILLIPUT_FOUR LILLIPUT_FOUR
    }
    const double seconds = std::chrono::duration<double>(Clock::now() - begun).count();
    const double rate = static_cast<double>(kRounds) * kChain / seconds;
    if (rate > best) best = rate;
  }
  return best;
#else
  (void)tries;
  return 0;
#endif
}
