// Binary convolution for 64-bit ARM: a byte is a pixel with eight channels, and counts its mismatches itself (CNT).
//
// Xor, count and add are 3 instructions for 128 products, which is what these processors can do; a table would need as many
// shuffles. Byte counters are flushed to 16 bits before they overflow. Eight output channels share every load of activations.
#include <arm_neon.h>

#include "kernels.h"

namespace lilliput {
namespace {

constexpr int kUnits = 16;  // in a register
constexpr int kMost = 2;    // registers of pixels at a time: 16 of counters, and 16 left over
constexpr int kSteps = 31;  // between flushes: 31 * 8 = 248

// Signs of eight output channels, and with `masked` weights that are not 0 behind them.
template <bool masked>
void fold(const uint16_t* codes, const uint16_t* masks, int64_t steps, void* weights) {
  uint8_t* to = static_cast<uint8_t*>(weights);
  for (int64_t s = 0; s < steps; ++s) {
    for (int k = 0; k < 8; ++k) *to++ = static_cast<uint8_t>(codes[k * steps + s]);
    for (int k = 0; masked && k < 8; ++k) *to++ = static_cast<uint8_t>(masks[k * steps + s]);
  }
}

// Mismatches of eight output channels with 16 * V pixels, in their order.
template <int V>
struct Counts {
  uint16x8_t of[8][V][2];
};

template <int V, bool masked>
void count(const BinaryTile& t, int64_t at, Counts<V>& counts) {
  for (auto& channel : counts.of) {
    for (auto& pixels : channel) pixels[0] = pixels[1] = vdupq_n_u16(0);
  }
  const uint8_t* planes = static_cast<const uint8_t*>(t.planes) + at;
  const uint8_t* w = static_cast<const uint8_t*>(t.weights);
  for (int64_t s = 0; s < t.steps;) {
    uint8x16_t few[8][V];
#pragma GCC unroll 8
    for (int k = 0; k < 8; ++k) {
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) few[k][v] = vdupq_n_u8(0);
    }
    for (const int64_t end = t.steps - s > kSteps ? s + kSteps : t.steps; s < end; ++s, w += masked ? 16 : 8) {
      uint8x16_t x[V];
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) x[v] = vld1q_u8(planes + t.offsets[s] + v * kUnits);
#pragma GCC unroll 8
      for (int k = 0; k < 8; ++k) {
        const uint8x16_t sign = vld1q_dup_u8(w + k);
#pragma GCC unroll 2
        for (int v = 0; v < V; ++v) {
          uint8x16_t differ = veorq_u8(x[v], sign);
          if (masked) differ = vandq_u8(differ, vld1q_dup_u8(w + 8 + k));
          few[k][v] = vaddq_u8(few[k][v], vcntq_u8(differ));
        }
      }
    }
#pragma GCC unroll 8
    for (int k = 0; k < 8; ++k) {
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) {
        counts.of[k][v][0] = vaddw_u8(counts.of[k][v][0], vget_low_u8(few[k][v]));
        counts.of[k][v][1] = vaddw_high_u8(counts.of[k][v][1], few[k][v]);
      }
    }
  }
}

// The 16-bit entries of a table for sixteen classes.
struct Entries {
  int16x8_t low, high;
};

Entries look_up(const int16_t* table, uint8x16_t kinds) {
  uint8x16x4_t first, second;  // bytes of entries, of which lookups take 64
  for (int i = 0; i < kClasses / 16; ++i) {
    const uint8x16x2_t split = vld2q_u8(reinterpret_cast<const uint8_t*>(table + 16 * i));
    first.val[i] = split.val[0];
    second.val[i] = split.val[1];
  }
  const uint8x16_t low = vqtbl4q_u8(first, kinds), high = vqtbl4q_u8(second, kinds);
  return {vreinterpretq_s16_u8(vzip1q_u8(low, high)), vreinterpretq_s16_u8(vzip2q_u8(low, high))};
}

template <int V, bool masked>
void tile(const BinaryTile& t, int64_t at) {
  Counts<V> counts;
  count<V, masked>(t, at, counts);
  for (int v = 0; v < V; ++v, at += kUnits) {
    const uint8x16_t kinds = vld1q_u8(t.classes + at);
    uint8x16_t word = vdupq_n_u8(t.flip);
    for (int k = 0; k < 8; ++k) {
      const Entries most = look_up(t.table + k * kClasses, kinds);
      const int16x8_t low = vreinterpretq_s16_u16(counts.of[k][v][0]), high = vreinterpretq_s16_u16(counts.of[k][v][1]);
      if (t.bits != nullptr) {
        const uint16x8_t first = vcleq_s16(low, most.low), second = vcleq_s16(high, most.high);
        const uint8x16_t ones = vuzp1q_u8(vreinterpretq_u8_u16(first), vreinterpretq_u8_u16(second));
        word = veorq_u8(word, vandq_u8(ones, vdupq_n_u8(static_cast<uint8_t>(1 << k))));
      } else {
        vst1q_s16(t.dots + k * t.row + at, vsubq_s16(most.low, vaddq_s16(low, low)));
        vst1q_s16(t.dots + k * t.row + at + 8, vsubq_s16(most.high, vaddq_s16(high, high)));
      }
    }
    if (t.bits != nullptr) vst1q_u8(t.bits + at, word);
  }
}

template <bool masked>
void run(const BinaryTile& t) {
  int64_t at = 0;
  for (; at + kUnits < t.pixels; at += kMost * kUnits) tile<kMost, masked>(t, at);
  if (at < t.pixels) tile<1, masked>(t, at);
}

// Multiplied and added in two roundings, as PyTorch does.
void floats(const int16_t* dots, int64_t count, float scale, const float* bias, float* out) {
  int64_t i = 0;
  for (; i + 4 <= count; i += 4) {
    const float32x4_t scaled = vmulq_n_f32(vcvtq_f32_s32(vmovl_s16(vld1_s16(dots + i))), scale);
    vst1q_f32(out + i, bias == nullptr ? scaled : vaddq_f32(scaled, vdupq_n_f32(*bias)));
  }
  for (; i < count; ++i) {
    const float scaled = static_cast<float>(dots[i]) * scale;
    out[i] = bias == nullptr ? scaled : scaled + *bias;
  }
}

// All ones where x >= bound, as eight 16-bit numbers.
uint16x8_t reaches(const float* x, float32x4_t bound) {
  return vcombine_u16(vmovn_u32(vcgeq_f32(vld1q_f32(x), bound)), vmovn_u32(vcgeq_f32(vld1q_f32(x + 4), bound)));
}

void binarize(const float* x, int64_t stride, int channels, int64_t pixels, const float* least, uint8_t* out) {
  int64_t i = 0;
  for (; i + 16 <= pixels; i += 16) {
    uint8x16_t word = vdupq_n_u8(0);
    for (int c = 0; c < channels; ++c) {
      const float* from = x + c * stride + i;
      const float32x4_t bound = vdupq_n_f32(least == nullptr ? 0.0f : least[c]);
      const uint8x16_t ones = vcombine_u8(vmovn_u16(reaches(from, bound)), vmovn_u16(reaches(from + 8, bound)));
      word = vorrq_u8(word, vandq_u8(ones, vdupq_n_u8(static_cast<uint8_t>(1 << c))));
    }
    vst1q_u8(out + i, word);
  }
  for (; i < pixels; ++i) {
    unsigned byte = 0;
    for (int c = 0; c < channels; ++c) byte |= (x[c * stride + i] >= (least == nullptr ? 0.0f : least[c]) ? 1u : 0u) << c;
    out[i] = static_cast<uint8_t>(byte);
  }
}

}  // namespace

extern const BinaryKernel binary_neon = {8, 1, 1, kMost * kUnits, 8, fold<false>, run<false>, floats, binarize};
extern const BinaryKernel ternary_neon = {8, 1, 1, kMost * kUnits, 16, fold<true>, run<true>, floats, binarize};

}  // namespace lilliput
