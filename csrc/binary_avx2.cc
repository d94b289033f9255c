// Binary convolution for AVX2: a weight is a table. Four weights are a 16-entry table of how many of four activations they
// mismatch, and one byte shuffle looks up 32 pixels. An entry holds the counts of two output channels, one in each half of a
// byte: three lookups are added (at most 12 in a half), then split into two byte counters, which are flushed to 16 bits before
// they overflow. Weights of 0 make more tables than can be kept, so ternary weights are stored as the tables themselves.
#include <immintrin.h>

#include "kernels.h"

namespace lilliput {
namespace {

constexpr int kUnits = 32;    // in a register
constexpr int kMost = 4;      // registers of pixels at a time
constexpr int kTriples = 21;  // between flushes: 21 * 12 = 252

struct Tables {
  constexpr Tables() : of() {
    for (int w = 0; w < 256; ++w) {
      for (int a = 0; a < 16; ++a) of[w][a] = static_cast<uint8_t>(ones((w & 15) ^ a) + 16 * ones((w >> 4) ^ a));
    }
  }
  static constexpr int ones(int nibble) { return (nibble & 1) + (nibble >> 1 & 1) + (nibble >> 2 & 1) + (nibble >> 3); }
  alignas(64) uint8_t of[256][16];
};

constexpr Tables kTables;

// Four pairs of channels, [pair][step]: which table.
void fold(const uint16_t* codes, const uint16_t*, int64_t steps, void* weights) {
  uint8_t* to = static_cast<uint8_t*>(weights);
  for (int pair = 0; pair < 4; ++pair) {
    const uint16_t *low = codes + 2 * pair * steps, *high = low + steps;
    for (int64_t s = 0; s < steps; ++s) *to++ = static_cast<uint8_t>(low[s] | high[s] << 4);
  }
}

// The same, the tables themselves.
void fold_masked(const uint16_t* codes, const uint16_t* masks, int64_t steps, void* weights) {
  uint8_t* to = static_cast<uint8_t*>(weights);
  for (int pair = 0; pair < 4; ++pair) {
    const int64_t low = 2 * pair * steps, high = low + steps;
    for (int64_t s = 0; s < steps; ++s) {
      for (int a = 0; a < 16; ++a) {
        const int first = Tables::ones((codes[low + s] ^ a) & masks[low + s]);
        const int second = Tables::ones((codes[high + s] ^ a) & masks[high + s]);
        *to++ = static_cast<uint8_t>(first + 16 * second);
      }
    }
  }
}

template <bool masked>
__m256i table(const uint8_t* w, int64_t s) {
  const uint8_t* from = masked ? w + 16 * s : kTables.of[w[s]];
  return _mm256_broadcastsi128_si256(_mm_load_si128(reinterpret_cast<const __m128i*>(from)));
}

__m256i load(const void* from) { return _mm256_loadu_si256(static_cast<const __m256i*>(from)); }

// Mismatches of two channels: 16 bits each, pixels 0 2 4 … of a register in `even`, the others in `odd`.
template <int V>
struct Counts {
  __m256i even[2][V], odd[2][V];
};

template <int V, bool masked>
void count_pair(const BinaryTile& t, const uint8_t* planes, const uint8_t* w, Counts<V>& counts) {
  const __m256i half = _mm256_set1_epi8(0x0F), low_byte = _mm256_set1_epi16(0x00FF), zero = _mm256_setzero_si256();
  for (int v = 0; v < V; ++v) counts.even[0][v] = counts.even[1][v] = counts.odd[0][v] = counts.odd[1][v] = zero;
  for (int64_t s = 0; s < t.steps;) {
    __m256i a[V], b[V];
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) a[v] = b[v] = zero;
    const int64_t end = t.steps - s > 3 * kTriples ? s + 3 * kTriples : t.steps;
    for (; s < end; s += 3) {
      const __m256i t0 = table<masked>(w, s), t1 = table<masked>(w, s + 1), t2 = table<masked>(w, s + 2);
      const uint8_t *p0 = planes + t.offsets[s], *p1 = planes + t.offsets[s + 1], *p2 = planes + t.offsets[s + 2];
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) {
        __m256i sum = _mm256_shuffle_epi8(t0, load(p0 + v * kUnits));
        sum = _mm256_add_epi8(sum, _mm256_shuffle_epi8(t1, load(p1 + v * kUnits)));
        sum = _mm256_add_epi8(sum, _mm256_shuffle_epi8(t2, load(p2 + v * kUnits)));
        a[v] = _mm256_add_epi8(a[v], _mm256_and_si256(sum, half));
        b[v] = _mm256_add_epi8(b[v], _mm256_and_si256(_mm256_srli_epi16(sum, 4), half));
      }
    }
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
      counts.even[0][v] = _mm256_add_epi16(counts.even[0][v], _mm256_and_si256(a[v], low_byte));
      counts.odd[0][v] = _mm256_add_epi16(counts.odd[0][v], _mm256_srli_epi16(a[v], 8));
      counts.even[1][v] = _mm256_add_epi16(counts.even[1][v], _mm256_and_si256(b[v], low_byte));
      counts.odd[1][v] = _mm256_add_epi16(counts.odd[1][v], _mm256_srli_epi16(b[v], 8));
    }
  }
}

// The 16-bit entries of a table for 32 classes: those of even pixels, and of odd ones.
struct Entries {
  __m256i even, odd;
};

struct Split {  // a table's low bytes and high bytes, sixteen entries a register
  __m256i low[kClasses / 16], high[kClasses / 16];
};

// Every other byte of 32 numbers, as two times the same sixteen bytes.
__m256i bytes_of(__m256i first, __m256i second) { return _mm256_permute4x64_epi64(_mm256_packus_epi16(first, second), 0xD8); }

// Sixteen 16-bit numbers' low bytes, in both halves of a register.
__m256i both(__m256i sixteen) {
  const __m256i packed = bytes_of(sixteen, sixteen);
  return _mm256_permute2x128_si256(packed, packed, 0x00);
}

void split(const int16_t* entries, int chunks, Split& made) {
  for (int i = 0; i < chunks; ++i) {
    const __m256i all = load(entries + 16 * i);
    made.low[i] = both(_mm256_and_si256(all, _mm256_set1_epi16(0x00FF)));
    made.high[i] = both(_mm256_srli_epi16(all, 8));
  }
}

Entries look_up(const Split& table, int chunks, __m256i kinds) {
  __m256i low = _mm256_setzero_si256(), high = low;
  for (int i = 0; i < chunks; ++i) {
    // Below 128 exactly for the sixteen classes of this chunk; the shuffle gives 0 for all others.
    const __m256i above = _mm256_sub_epi8(kinds, _mm256_set1_epi8(static_cast<char>(16 * i)));
    const __m256i index = _mm256_adds_epu8(above, _mm256_set1_epi8(0x70));
    low = _mm256_or_si256(low, _mm256_shuffle_epi8(table.low[i], index));
    high = _mm256_or_si256(high, _mm256_shuffle_epi8(table.high[i], index));
  }
  const __m256i low_byte = _mm256_set1_epi16(0x00FF);
  return {_mm256_or_si256(_mm256_and_si256(low, low_byte), _mm256_slli_epi16(high, 8)),
          _mm256_or_si256(_mm256_srli_epi16(low, 8), _mm256_andnot_si256(low_byte, high))};
}

// Bit `k` of 32 pixels where the mismatches are at most the entry.
__m256i bit(__m256i even, __m256i odd, const Entries& most, int k) {
  const __m256i low_byte = _mm256_set1_epi16(0x00FF);
  const __m256i above = _mm256_or_si256(_mm256_and_si256(_mm256_cmpgt_epi16(even, most.even), low_byte),
                                        _mm256_andnot_si256(low_byte, _mm256_cmpgt_epi16(odd, most.odd)));
  return _mm256_andnot_si256(above, _mm256_set1_epi8(static_cast<char>(1 << k)));
}

void store_dots(__m256i even, __m256i odd, const Entries& most, int16_t* to) {
  const __m256i e = _mm256_sub_epi16(most.even, _mm256_add_epi16(even, even));
  const __m256i o = _mm256_sub_epi16(most.odd, _mm256_add_epi16(odd, odd));
  const __m256i low = _mm256_unpacklo_epi16(e, o), high = _mm256_unpackhi_epi16(e, o);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm256_permute2x128_si256(low, high, 0x20));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + 16), _mm256_permute2x128_si256(low, high, 0x31));
}

template <int V, bool masked>
void tile(const BinaryTile& t, int64_t at, int chunks) {
  const uint8_t* planes = static_cast<const uint8_t*>(t.planes) + at;
  __m256i word[V];
  for (int v = 0; v < V; ++v) word[v] = _mm256_set1_epi8(static_cast<char>(t.flip));
  for (int pair = 0; pair < 4; ++pair) {
    Counts<V> counts;
    count_pair<V, masked>(t, planes, static_cast<const uint8_t*>(t.weights) + pair * t.steps * (masked ? 16 : 1), counts);
    for (int of = 0; of < 2; ++of) {
      const int k = 2 * pair + of;
      Split table;
      split(t.table + k * kClasses, chunks, table);
      for (int v = 0; v < V; ++v) {
        const Entries most = look_up(table, chunks, load(t.classes + at + v * kUnits));
        if (t.bits != nullptr) {
          word[v] = _mm256_xor_si256(word[v], bit(counts.even[of][v], counts.odd[of][v], most, k));
        } else {
          store_dots(counts.even[of][v], counts.odd[of][v], most, t.dots + k * t.row + at + v * kUnits);
        }
      }
    }
  }
  if (t.bits == nullptr) return;
  for (int v = 0; v < V; ++v) _mm256_storeu_si256(reinterpret_cast<__m256i*>(t.bits + at + v * kUnits), word[v]);
}

// Chunks of sixteen that hold every class of the tile.
int chunks_of(const BinaryTile& t) {
  int most = 0;
  for (int64_t i = 0; i < t.pixels; ++i) most = t.classes[i] > most ? t.classes[i] : most;
  return most / 16 + 1;
}

template <bool masked>
void run(const BinaryTile& t) {
  const int chunks = chunks_of(t);
  int64_t at = 0;
  for (; at + (kMost - 1) * kUnits < t.pixels; at += kMost * kUnits) tile<kMost, masked>(t, at, chunks);
  if (at + 2 * kUnits < t.pixels) {
    tile<3, masked>(t, at, chunks);
  } else if (at + kUnits < t.pixels) {
    tile<2, masked>(t, at, chunks);
  } else if (at < t.pixels) {
    tile<1, masked>(t, at, chunks);
  }
}

void floats(const int16_t* dots, int64_t count, float scale, const float* bias, float* out) {
  const __m256 factor = _mm256_set1_ps(scale), shift = _mm256_set1_ps(bias == nullptr ? 0.0f : *bias);
  int64_t i = 0;
  for (; i + 8 <= count; i += 8) {
    const __m256i wide = _mm256_cvtepi16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(dots + i)));
    const __m256 scaled = _mm256_mul_ps(_mm256_cvtepi32_ps(wide), factor);
    _mm256_storeu_ps(out + i, bias == nullptr ? scaled : _mm256_add_ps(scaled, shift));
  }
  for (; i < count; ++i) {
    const float scaled = static_cast<float>(dots[i]) * scale;
    out[i] = bias == nullptr ? scaled : scaled + *bias;
  }
}

// All ones where x >= bound, as eight 32-bit numbers.
__m256i reaches(const float* x, __m256 bound) {
  return _mm256_castps_si256(_mm256_cmp_ps(_mm256_loadu_ps(x), bound, _CMP_GE_OQ));
}

void binarize(const float* x, int64_t stride, int channels, int64_t pixels, const float* least, uint8_t* out) {
  const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);  // undoes what packing within 128-bit halves did
  int64_t i = 0;
  for (; i + 32 <= pixels; i += 32) {
    __m256i word = _mm256_setzero_si256();
    for (int c = 0; c < channels; ++c) {
      const float* from = x + c * stride + i;
      const __m256 bound = _mm256_set1_ps(least == nullptr ? 0.0f : least[c]);
      const __m256i first = _mm256_packs_epi32(reaches(from, bound), reaches(from + 8, bound));
      const __m256i second = _mm256_packs_epi32(reaches(from + 16, bound), reaches(from + 24, bound));
      const __m256i ones = _mm256_permutevar8x32_epi32(_mm256_packs_epi16(first, second), order);
      word = _mm256_or_si256(word, _mm256_and_si256(ones, _mm256_set1_epi8(static_cast<char>(1 << c))));
    }
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + i), word);
  }
  for (; i < pixels; ++i) {
    unsigned byte = 0;
    for (int c = 0; c < channels; ++c) byte |= (x[c * stride + i] >= (least == nullptr ? 0.0f : least[c]) ? 1u : 0u) << c;
    out[i] = static_cast<uint8_t>(byte);
  }
}

}  // namespace

extern const BinaryKernel binary_avx2 = {4, 1, 3, kMost * kUnits, 4, fold, run<false>, floats, binarize};
extern const BinaryKernel ternary_avx2 = {4, 1, 3, kMost * kUnits, 64, fold_masked, run<true>, floats, binarize};

}  // namespace lilliput
