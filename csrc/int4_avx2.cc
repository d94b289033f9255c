// Bytes by weights of four bits for AVX2: a 16-bit lane is a pixel with two channels; one instruction multiplies and adds them.
//
// Multiply-add and add are 2 instructions for 32 products. Two products take 4,080 at most, so nothing saturates, and 16-bit
// sums hold many steps: how many, the weights say; before the steps in `ends` they are added to 32-bit ones.
#include <immintrin.h>

#include "kernels.h"

namespace lilliput {
namespace {

constexpr int kUnits = 16;   // in a register
constexpr int kMost = 2;     // registers of pixels at a time
constexpr int kOutputs = 4;  // with them 8 of sums, and 8 left over

// Some steps in 16 bits. A function of its own, whose sums stay in registers.
template <int V>
__attribute__((noinline)) void few(const Int4Tile& t, int64_t at, int64_t first, int64_t end, __m256i (&made)[kOutputs][V]) {
  const uint16_t* planes = static_cast<const uint16_t*>(t.planes) + at;
  const int8_t* w = t.weights + first * 2 * kOutputs;
  __m256i sum[kOutputs][V];
#pragma GCC unroll 4
  for (int k = 0; k < kOutputs; ++k) {
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) sum[k][v] = _mm256_setzero_si256();
  }
  for (int64_t s = first; s < end; ++s, w += 2 * kOutputs) {
    const uint16_t* from = planes + t.offsets[s];
    __m256i x[V];
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) x[v] = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from + v * kUnits));
#pragma GCC unroll 4
    for (int k = 0; k < kOutputs; ++k) {
      int16_t pair;
      __builtin_memcpy(&pair, w + 2 * k, 2);
      const __m256i both = _mm256_set1_epi16(pair);
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) sum[k][v] = _mm256_add_epi16(sum[k][v], _mm256_maddubs_epi16(x[v], both));
    }
  }
#pragma GCC unroll 4
  for (int k = 0; k < kOutputs; ++k) {
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) made[k][v] = sum[k][v];
  }
}

template <int V>
void tile(const Int4Tile& t, int64_t at) {
  __m256i wide[kOutputs][V][2], sum[kOutputs][V];
  for (auto& output : wide) {
    for (auto& pixels : output) pixels[0] = pixels[1] = _mm256_setzero_si256();
  }
  int64_t s = 0;
  for (const int64_t* end = t.ends; s < t.steps; s = *end++) {
    few<V>(t, at, s, *end, sum);
    for (int k = 0; k < kOutputs; ++k) {
      for (int v = 0; v < V; ++v) {
        const __m256i low = _mm256_cvtepi16_epi32(_mm256_castsi256_si128(sum[k][v]));
        const __m256i high = _mm256_cvtepi16_epi32(_mm256_extracti128_si256(sum[k][v], 1));
        wide[k][v][0] = _mm256_add_epi32(wide[k][v][0], low);
        wide[k][v][1] = _mm256_add_epi32(wide[k][v][1], high);
      }
    }
  }
  for (int k = 0; k < kOutputs; ++k) {
    for (int v = 0; v < V; ++v) {
      int32_t* to = t.sums + k * t.row + at + v * kUnits;
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), wide[k][v][0]);
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + 8), wide[k][v][1]);
    }
  }
}

void run(const Int4Tile& t) {
  int64_t at = 0;
  for (; at + kUnits < t.pixels; at += kMost * kUnits) tile<kMost>(t, at);
  if (at < t.pixels) tile<1>(t, at);
}

// Multiplied and added in two roundings, as PyTorch does.
void floats(const int32_t* sums, int64_t count, int32_t less, float scale, const float* bias, float* out) {
  const __m256 factor = _mm256_set1_ps(scale), shift = _mm256_set1_ps(bias == nullptr ? 0.0f : *bias);
  const __m256i away = _mm256_set1_epi32(less);
  int64_t i = 0;
  for (; i + 8 <= count; i += 8) {
    const __m256i sum = _mm256_sub_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(sums + i)), away);
    const __m256 scaled = _mm256_mul_ps(_mm256_cvtepi32_ps(sum), factor);
    _mm256_storeu_ps(out + i, bias == nullptr ? scaled : _mm256_add_ps(scaled, shift));
  }
  for (; i < count; ++i) {
    const float scaled = static_cast<float>(sums[i] - less) * scale;
    out[i] = bias == nullptr ? scaled : scaled + *bias;
  }
}

}  // namespace

extern const Int4Kernel int4_avx2 = {2, kOutputs, true, kMost * kUnits, run, floats};

}  // namespace lilliput
