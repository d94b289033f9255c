// Bytes by weights of four bits for 64-bit ARM with dot products: a 32-bit lane is a pixel with four channels, which one
// instruction multiplies and adds up exactly. It takes signed bytes, so activations are 128 less here, and sums begin with what
// that takes away.
#include <arm_neon.h>

#include "kernels.h"

namespace lilliput {
namespace {

constexpr int kUnits = 4;    // in a register
constexpr int kMost = 3;     // registers of pixels at a time
constexpr int kOutputs = 8;  // with them 24 of sums, and 8 left over

template <int V>
void tile(const Int4Tile& t, int64_t at, const int32_t (&first)[kOutputs]) {
  const uint32_t* planes = static_cast<const uint32_t*>(t.planes) + at;
  const int8_t* w = t.weights;
  const uint8x16_t half = vdupq_n_u8(128);
  int32x4_t sum[kOutputs][V];
#pragma GCC unroll 8
  for (int k = 0; k < kOutputs; ++k) {
#pragma GCC unroll 3
    for (int v = 0; v < V; ++v) sum[k][v] = vdupq_n_s32(first[k]);
  }
  for (int64_t s = 0; s < t.steps; ++s, w += 4 * kOutputs) {
    const uint8_t* from = reinterpret_cast<const uint8_t*>(planes + t.offsets[s]);
    int8x16_t x[V];
#pragma GCC unroll 3
    for (int v = 0; v < V; ++v) x[v] = vreinterpretq_s8_u8(veorq_u8(vld1q_u8(from + 16 * v), half));
#pragma GCC unroll 8
    for (int k = 0; k < kOutputs; ++k) {
      int32_t four;
      __builtin_memcpy(&four, w + 4 * k, 4);
      const int8x16_t all = vreinterpretq_s8_s32(vdupq_n_s32(four));
#pragma GCC unroll 3
      for (int v = 0; v < V; ++v) sum[k][v] = vdotq_s32(sum[k][v], x[v], all);
    }
  }
#pragma GCC unroll 8
  for (int k = 0; k < kOutputs; ++k) {
#pragma GCC unroll 3
    for (int v = 0; v < V; ++v) vst1q_s32(t.sums + k * t.row + at + v * kUnits, sum[k][v]);
  }
}

void run(const Int4Tile& t) {
  int32_t first[kOutputs] = {};
  for (int64_t i = 0; i < t.steps * kOutputs; ++i) {
    for (int b = 0; b < 4; ++b) first[i % kOutputs] += 128 * t.weights[4 * i + b];
  }
  int64_t at = 0;
  for (; at + (kMost - 1) * kUnits < t.pixels; at += kMost * kUnits) tile<kMost>(t, at, first);
  if (at + kUnits < t.pixels) {
    tile<2>(t, at, first);
  } else if (at < t.pixels) {
    tile<1>(t, at, first);
  }
}

// Multiplied and added in two roundings, as PyTorch does.
void floats(const int32_t* sums, int64_t count, int32_t less, float scale, const float* bias, float* out) {
  int64_t i = 0;
  for (; i + 4 <= count; i += 4) {
    const float32x4_t scaled = vmulq_n_f32(vcvtq_f32_s32(vsubq_s32(vld1q_s32(sums + i), vdupq_n_s32(less))), scale);
    vst1q_f32(out + i, bias == nullptr ? scaled : vaddq_f32(scaled, vdupq_n_f32(*bias)));
  }
  for (; i < count; ++i) {
    const float scaled = static_cast<float>(sums[i] - less) * scale;
    out[i] = bias == nullptr ? scaled : scaled + *bias;
  }
}

}  // namespace

extern const Int4Kernel int4_dotprod = {4, kOutputs, false, kMost * kUnits, run, floats};

}  // namespace lilliput
