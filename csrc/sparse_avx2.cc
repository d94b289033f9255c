#include <immintrin.h>

#include "kernels.h"

namespace lilliput {
namespace {

struct Lanes {
  using Vector = __m256;
  static constexpr int count = 8;
  static __m256 all(float x) { return _mm256_set1_ps(x); }
  static __m256 load(const float* x) { return _mm256_loadu_ps(x); }
  static __m256i some(int64_t n) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(n)), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  }
  static __m256 load_some(const float* x, __m256i some) { return _mm256_maskload_ps(x, some); }
  static __m256 add(__m256 w, __m256 x, __m256 sum) { return _mm256_fmadd_ps(w, x, sum); }
  static __m256 plus(__m256 a, __m256 b) { return _mm256_add_ps(a, b); }
  static void store(float* to, __m256 x) { _mm256_store_ps(to, x); }
  static void copy(float* to, const float* from, int64_t n) {
    for (; n >= count; n -= count, to += count, from += count) _mm256_storeu_ps(to, _mm256_loadu_ps(from));
    if (n > 0) _mm256_maskstore_ps(to, some(n), _mm256_maskload_ps(from, some(n)));
  }
};

#include "sparse_tile.h"

}  // namespace

extern const SparseKernel sparse_avx2 = {run};

}  // namespace lilliput
