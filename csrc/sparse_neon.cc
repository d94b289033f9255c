#include <arm_neon.h>

#include "kernels.h"

namespace lilliput {
namespace {

struct Lanes {
  using Vector = float32x4_t;
  static constexpr int count = 4;
  static float32x4_t all(float x) { return vdupq_n_f32(x); }
  static float32x4_t load(const float* x) { return vld1q_f32(x); }
  static float32x4_t load_any(const float* x) { return vld1q_f32(x); }
  static float32x4_t load_some(const float* x, int n) {
    float32x4_t made = vdupq_n_f32(0);
    if (n > 0) made = vld1q_lane_f32(x, made, 0);
    if (n > 1) made = vld1q_lane_f32(x + 1, made, 1);
    if (n > 2) made = vld1q_lane_f32(x + 2, made, 2);
    return made;
  }
  static float32x4_t add(float32x4_t w, float32x4_t x, float32x4_t sum) { return vfmaq_f32(sum, w, x); }
  static float32x4_t plus(float32x4_t a, float32x4_t b) { return vaddq_f32(a, b); }
  static void store(float* to, float32x4_t x) { vst1q_f32(to, x); }
  static void store_any(float* to, float32x4_t x) { vst1q_f32(to, x); }
  static void store_some(float* to, float32x4_t x, int n) {
    if (n > 0) vst1q_lane_f32(to, x, 0);
    if (n > 1) vst1q_lane_f32(to + 1, x, 1);
    if (n > 2) vst1q_lane_f32(to + 2, x, 2);
  }
  static void copy(float* to, const float* from, int64_t n) {
    for (; n >= count; n -= count, to += count, from += count) vst1q_f32(to, vld1q_f32(from));
    store_some(to, load_some(from, static_cast<int>(n)), static_cast<int>(n));
  }
};

#include "sparse_tile.h"

}  // namespace

extern const SparseKernel sparse_neon = {Lanes::count, kMost, fill, run};

}  // namespace lilliput
