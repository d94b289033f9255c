#include <immintrin.h>

#include "kernels.h"

namespace lilliput {
namespace {

struct Lanes {
  using Vector = __m512;
  static constexpr int count = 16;
  static __m512 all(float x) { return _mm512_set1_ps(x); }
  static __m512 load(const float* x) { return _mm512_load_ps(x); }
  static __m512 load_any(const float* x) { return _mm512_loadu_ps(x); }
  static __m512 load_some(const float* x, int n) { return _mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << n) - 1), x); }
  static __m512 add(__m512 w, __m512 x, __m512 sum) { return _mm512_fmadd_ps(w, x, sum); }
  static __m512 plus(__m512 a, __m512 b) { return _mm512_add_ps(a, b); }
  static void store(float* to, __m512 x) { _mm512_store_ps(to, x); }
  static void store_any(float* to, __m512 x) { _mm512_storeu_ps(to, x); }
  static void store_some(float* to, __m512 x, int n) { _mm512_mask_storeu_ps(to, static_cast<__mmask16>((1u << n) - 1), x); }
  static void copy(float* to, const float* from, int64_t n) {
    for (; n >= count; n -= count, to += count, from += count) _mm512_storeu_ps(to, _mm512_loadu_ps(from));
    if (n > 0) store_some(to, load_some(from, static_cast<int>(n)), static_cast<int>(n));
  }
};

#include "sparse_tile.h"

}  // namespace

extern const SparseKernel sparse_avx512 = {Lanes::count, kMost, fill, run};

}  // namespace lilliput
