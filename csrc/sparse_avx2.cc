#include <immintrin.h>

#include "kernels.h"

namespace lilliput {
namespace {

struct Lanes {
  using Vector = __m256;
  static constexpr int count = 8;
  static __m256 all(float x) { return _mm256_set1_ps(x); }
  static __m256 load(const float* x) { return _mm256_load_ps(x); }
  static __m256 load_any(const float* x) { return _mm256_loadu_ps(x); }
  static __m256 load_some(const float* x, int n) {
    const __m256i order = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_maskload_ps(x, _mm256_cmpgt_epi32(_mm256_set1_epi32(n), order));
  }
  static __m256 add(__m256 w, __m256 x, __m256 sum) { return _mm256_fmadd_ps(w, x, sum); }
  static __m256 plus(__m256 a, __m256 b) { return _mm256_add_ps(a, b); }
  static void store(float* to, __m256 x) { _mm256_store_ps(to, x); }
  static void store_any(float* to, __m256 x) { _mm256_storeu_ps(to, x); }
  // Piece by piece: masked stores are slow on many processors.
  static void store_some(float* to, __m256 x, int n) {
    __m128 part = _mm256_castps256_ps128(x);
    if (n & 4) {
      _mm_storeu_ps(to, part);
      part = _mm256_extractf128_ps(x, 1);
      to += 4;
    }
    if (n & 2) {
      _mm_storel_pi(reinterpret_cast<__m64*>(to), part);
      part = _mm_movehl_ps(part, part);
      to += 2;
    }
    if (n & 1) _mm_store_ss(to, part);
  }
  static void copy(float* to, const float* from, int64_t n) {
    for (; n >= count; n -= count, to += count, from += count) _mm256_storeu_ps(to, _mm256_loadu_ps(from));
    if (n > 0) store_some(to, load_some(from, static_cast<int>(n)), static_cast<int>(n));
  }
};

#include "sparse_tile.h"

}  // namespace

extern const SparseKernel sparse_avx2 = {Lanes::count, kMost, fill, run};

}  // namespace lilliput
