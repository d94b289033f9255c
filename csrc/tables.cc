#include "coder.h"

namespace lilliput {

namespace {

// -log2(i / 4096) in 2^-12, one binary digit after another.
uint32_t cost_of(uint64_t i) {
  uint32_t whole = 0;
  while (i < 4096) {
    i <<= 1;
    ++whole;
  }
  uint64_t x = i << 20;  // in 2^-32, from 1 to 2
  uint32_t part = 0;
  for (int digit = 0; digit < 12; ++digit) {
    x = (x >> 16) * (x >> 16);
    part <<= 1;
    if (x >= 2ull << 32) {
      part |= 1;
      x >>= 1;
    }
  }
  return (whole << 12) - part;
}

}  // namespace

Tables::Tables() {
  for (uint32_t n = 0; n < 1024; ++n) rate[n] = (1u << 17) / (2 * n + 3);
  // falling[x] = e^(-x/256) in 2^-32
  const uint64_t step = 4278222805ull;  // e^(-1/256) in 2^-32
  uint64_t falling = 1ull << 32;
  for (int x = 0; x < 2048; ++x) {
    const uint64_t p = (1ull << 48) / ((1ull << 32) + falling);  // 1 / (1 + e^-x) in 2^-16
    squash[2048 + x] = static_cast<uint16_t>(p > kOne - kLeast ? kOne - kLeast : p);
    if (x) squash[2048 - x] = static_cast<uint16_t>(kOne - squash[2048 + x]);
    falling = (falling * step) >> 32;
  }
  squash[0] = squash[1];
  int x = -2047;
  for (int p = 0; p < 4096; ++p) {  // the first x whose probability is at least p
    while (x < 2047 && squash[x + 2048] < (static_cast<uint32_t>(p) << 4) + 8) ++x;
    stretch[p] = static_cast<int16_t>(x);
  }
  cost[0] = static_cast<uint16_t>(12 << 12);
  for (uint32_t i = 1; i < 4096; ++i) cost[i] = static_cast<uint16_t>(cost_of(i));
}

const Tables kTables;

}  // namespace lilliput
