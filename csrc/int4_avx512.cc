// Bytes by weights of four bits for AVX-512 with VNNI: a 32-bit lane is a pixel with four channels, which one instruction
// multiplies and adds up exactly. Eight output channels share every load of activations.
#include <immintrin.h>

#include "kernels.h"

namespace lilliput {
namespace {

constexpr int kUnits = 16;   // in a register
constexpr int kMost = 3;     // registers of pixels at a time
constexpr int kOutputs = 8;  // with them 24 of sums, and 8 left over

template <int V>
void tile(const Int4Tile& t, int64_t at) {
  const uint32_t* planes = static_cast<const uint32_t*>(t.planes) + at;
  const int8_t* w = t.weights;
  __m512i sum[kOutputs][V];
#pragma GCC unroll 8
  for (int k = 0; k < kOutputs; ++k) {
#pragma GCC unroll 3
    for (int v = 0; v < V; ++v) sum[k][v] = _mm512_setzero_si512();
  }
  for (int64_t s = 0; s < t.steps; ++s, w += 4 * kOutputs) {
    const uint32_t* from = planes + t.offsets[s];
    __m512i x[V];
#pragma GCC unroll 3
    for (int v = 0; v < V; ++v) x[v] = _mm512_loadu_si512(from + v * kUnits);
#pragma GCC unroll 8
    for (int k = 0; k < kOutputs; ++k) {
      int32_t four;
      __builtin_memcpy(&four, w + 4 * k, 4);
      const __m512i all = _mm512_set1_epi32(four);
#pragma GCC unroll 3
      for (int v = 0; v < V; ++v) sum[k][v] = _mm512_dpbusd_epi32(sum[k][v], x[v], all);
    }
  }
#pragma GCC unroll 8
  for (int k = 0; k < kOutputs; ++k) {
#pragma GCC unroll 3
    for (int v = 0; v < V; ++v) _mm512_storeu_si512(t.sums + k * t.row + at + v * kUnits, sum[k][v]);
  }
}

void run(const Int4Tile& t) {
  int64_t at = 0;
  for (; at + (kMost - 1) * kUnits < t.pixels; at += kMost * kUnits) tile<kMost>(t, at);
  if (at + kUnits < t.pixels) {
    tile<2>(t, at);
  } else if (at < t.pixels) {
    tile<1>(t, at);
  }
}

// Multiplied and added in two roundings, as PyTorch does.
void floats(const int32_t* sums, int64_t count, int32_t less, float scale, const float* bias, float* out) {
  const __m512 factor = _mm512_set1_ps(scale), shift = _mm512_set1_ps(bias == nullptr ? 0.0f : *bias);
  for (int64_t i = 0; i < count; i += 16) {  // `sums` has slack behind it, `out` has not
    const __m512i sum = _mm512_sub_epi32(_mm512_loadu_si512(sums + i), _mm512_set1_epi32(less));
    const __m512 scaled = _mm512_mul_ps(_mm512_cvtepi32_ps(sum), factor);
    const __mmask16 here = count - i >= 16 ? 0xFFFF : static_cast<__mmask16>((1u << (count - i)) - 1);
    _mm512_mask_storeu_ps(out + i, here, bias == nullptr ? scaled : _mm512_add_ps(scaled, shift));
  }
}

}  // namespace

extern const Int4Kernel int4_avx512 = {4, kOutputs, false, kMost * kUnits, run, floats};

}  // namespace lilliput
