// Binary convolution for AVX-512: a lane is a pixel with sixteen channels, and counts its mismatches itself (VPOPCNTW).
//
// Xor, count and add are 3 instructions for 512 products; 16-bit counters never overflow (kMostProducts): nothing is flushed.
// Eight output channels share every load of activations. With weights of 0 a mask takes part in the xor, by one instruction.
#include <immintrin.h>

#include "kernels.h"

namespace lilliput {
namespace {

constexpr int kUnits = 32;  // in a register
constexpr int kMost = 3;    // registers of pixels at a time: 24 of counters, and 8 left over

constexpr int kAhead = 48;  // steps: inside a network weights come from far away, and no hardware prefetcher crosses a page

constexpr uint32_t kBoth = 0x10001;  // a code in both halves: 32-bit broadcasts cost no shuffle

// Signs, and with `masked` weights that are not 0 behind them.
template <bool masked>
void fold(const uint16_t* codes, const uint16_t* masks, int64_t steps, void* weights) {
  uint32_t* to = static_cast<uint32_t*>(weights);
  for (int64_t s = 0; s < steps; ++s) {
    for (int k = 0; k < 8; ++k) *to++ = codes[k * steps + s] * kBoth;
    for (int k = 0; masked && k < 8; ++k) *to++ = masks[k * steps + s] * kBoth;
  }
}

// Where signs differ, of weights that are not 0.
template <bool masked>
__attribute__((always_inline)) inline __m512i differ(__m512i x, __m512i sign, __m512i mask) {
  if constexpr (masked) return _mm512_ternarylogic_epi32(x, sign, mask, 0x28);
  return _mm512_xor_si512(x, sign);
}

template <int V>
__attribute__((always_inline)) inline void finish(const BinaryTile& t, int64_t at, const __m512i (&count)[8][V]) {
#pragma GCC unroll 3  // all indices are constants, so the counters stay in registers
  for (int v = 0; v < V; ++v, at += kUnits) {
    const __m512i kind = _mm512_cvtepu8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(t.classes + at)));
    __m512i word = _mm512_setzero_si512();
#pragma GCC unroll 8
    for (int k = 0; k < 8; ++k) {
      const int16_t* table = t.table + k * kClasses;
      const __m512i most = _mm512_permutex2var_epi16(_mm512_loadu_si512(table), kind, _mm512_loadu_si512(table + kUnits));
      const __m512i m = count[k][v];
      if (t.bits != nullptr) {
        const __m512i bit = _mm512_set1_epi16(static_cast<int16_t>(1 << k));
        word = _mm512_mask_add_epi16(word, _mm512_cmple_epi16_mask(m, most), word, bit);
      } else {
        _mm512_storeu_si512(t.dots + k * t.row + at, _mm512_sub_epi16(most, _mm512_add_epi16(m, m)));
      }
    }
    if (t.bits == nullptr) continue;
    word = _mm512_xor_si512(word, _mm512_set1_epi16(t.flip));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(t.bits + at), _mm512_cvtepi16_epi8(word));
  }
}

template <int V, bool masked>
void tile(const BinaryTile& t, int64_t at) {
  __m512i count[8][V];
#pragma GCC unroll 8
  for (int k = 0; k < 8; ++k) {
#pragma GCC unroll 3
    for (int v = 0; v < V; ++v) count[k][v] = _mm512_setzero_si512();
  }
  const uint16_t* planes = static_cast<const uint16_t*>(t.planes) + at;
  const uint32_t* w = static_cast<const uint32_t*>(t.weights);
  for (int64_t s = 0; s < t.steps; ++s, w += masked ? 16 : 8) {
    const uint16_t* from = planes + t.offsets[s];
    _mm_prefetch(reinterpret_cast<const char*>(w + kAhead * (masked ? 16 : 8)), _MM_HINT_T0);
    __m512i x[V];
#pragma GCC unroll 3
    for (int v = 0; v < V; ++v) x[v] = _mm512_loadu_si512(from + v * kUnits);
#pragma GCC unroll 8
    for (int k = 0; k < 8; ++k) {
      const __m512i sign = _mm512_set1_epi32(static_cast<int>(w[k]));
      const __m512i mask = masked ? _mm512_set1_epi32(static_cast<int>(w[8 + k])) : sign;
#pragma GCC unroll 3
      for (int v = 0; v < V; ++v) {
        count[k][v] = _mm512_add_epi16(count[k][v], _mm512_popcnt_epi16(differ<masked>(x[v], sign, mask)));
      }
    }
  }
  finish<V>(t, at, count);
}

template <bool masked>
void run(const BinaryTile& t) {
  int64_t at = 0;
  for (; at + (kMost - 1) * kUnits < t.pixels; at += kMost * kUnits) tile<kMost, masked>(t, at);
  if (at + kUnits < t.pixels) {
    tile<2, masked>(t, at);
  } else if (at < t.pixels) {
    tile<1, masked>(t, at);
  }
}

// Multiplied and added in two roundings, as PyTorch does.
__m512 line(__m512i dots, __m512 scale, const float* bias) {
  const __m512 scaled = _mm512_mul_ps(_mm512_cvtepi32_ps(dots), scale);
  return bias == nullptr ? scaled : _mm512_add_ps(scaled, _mm512_set1_ps(*bias));
}

void floats(const int16_t* dots, int64_t count, float scale, const float* bias, float* out) {
  const __m512 factor = _mm512_set1_ps(scale);
  for (int64_t i = 0; i < count; i += 16) {  // `dots` has slack behind it, `out` has not
    const __m512i wide = _mm512_cvtepi16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(dots + i)));
    const __mmask16 here = count - i >= 16 ? 0xFFFF : static_cast<__mmask16>((1u << (count - i)) - 1);
    _mm512_mask_storeu_ps(out + i, here, line(wide, factor, bias));
  }
}

void binarize(const float* x, int64_t stride, int channels, int64_t pixels, const float* least, uint8_t* out) {
  for (int64_t i = 0; i < pixels; i += 64) {
    const int64_t left = pixels - i;
    const __mmask64 here = left >= 64 ? ~0ull : (1ull << left) - 1;
    __m512i word = _mm512_setzero_si512();
    for (int c = 0; c < channels; ++c) {
      const float* from = x + c * stride + i;
      const __m512 bound = _mm512_set1_ps(least == nullptr ? 0.0f : least[c]);
      __mmask64 ones = 0;
      for (int part = 0; part < 4; ++part) {
        const __mmask16 some = static_cast<__mmask16>(here >> (16 * part));
        const __mmask16 found = _mm512_mask_cmp_ps_mask(some, _mm512_maskz_loadu_ps(some, from + 16 * part), bound, _CMP_GE_OQ);
        ones |= static_cast<__mmask64>(found) << (16 * part);
      }
      word = _mm512_mask_add_epi8(word, ones, word, _mm512_set1_epi8(static_cast<char>(1 << c)));
    }
    _mm512_mask_storeu_epi8(out + i, here, word);
  }
}

}  // namespace

extern const BinaryKernel binary_avx512 = {16, 2, 1, kMost * kUnits, 32, fold<false>, run<false>, floats, binarize};
extern const BinaryKernel ternary_avx512 = {16, 2, 1, kMost * kUnits, 64, fold<true>, run<true>, floats, binarize};

}  // namespace lilliput
