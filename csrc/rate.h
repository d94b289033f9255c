// Rounding with the rate in mind: codes whose error, seen through a second-order model of the loss, and whose cost in the
// context coder are least together.
#pragma once

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

// One tensor of `rows` · `kernels` · `taps` numbers, and after each row's numbers `extra` more that are no codes (0 or 1: a bias).
// A number in row r at place j is a code times steps[r·kernels·taps + j], `extra` ones are multiples of `extra_step`.
// With d = kernels·taps + extra: `across` is the upper factor U (d · d) of UᵀU = A⁻¹, `down` (rows · rows) that of G⁻¹, where the
// loss rises by tr(G·E·A·Eᵀ)/2 with the error E. `weights` (rows · d) come back as what the codes stand for.
typedef struct {
  int64_t rows, kernels, taps, extra;
  double* weights;
  const double* steps;
  double extra_step;
  const double* across;
  const double* down;
  double price;  // rise of the loss that a bit is worth
  int32_t most;  // no code is further from zero
  int32_t turns;  // not 0: every code is of one of two quantizers that take turns (trellis.h), so steps should be half as large
} lilliput_rounding;

// Returns a `lilliput_status`. `*bits`, unless `bits` is null, is what the codes would cost in a file by themselves.
int lilliput_round(const lilliput_rounding* job, double* bits);

#ifdef __cplusplus
}
#endif
