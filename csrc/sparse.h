// Convolutions whose weights are mostly zero: only the others are stored and multiplied.
#pragma once

#include <stdint.h>

#include "conv.h"

#ifdef __cplusplus
extern "C" {
#endif

// The non-zeros of output channel o are rows[o] to rows[o + 1]; `columns` counts (channel in the group, kernel row, kernel
// column) in the order of a dense weight. Outside the image stands 0.
typedef struct {
  lilliput_conv conv;
  const int32_t* rows;
  const int32_t* columns;
  const float* values;
  const float* bias;  // or null
} lilliput_sparse_layer;

typedef struct lilliput_sparse lilliput_sparse;

// A layer that is ready to run; everything is copied. `kernel` names a row of kernels.inc, or is null.
int lilliput_sparse_new(const lilliput_sparse_layer* layer, const char* kernel, lilliput_sparse** made);
void lilliput_sparse_free(lilliput_sparse* layer);
const char* lilliput_sparse_kernel(const lilliput_sparse* layer);

// x: [batch][in][height][width], out: [batch][out][height][width]. Computed by up to `threads` threads, bit-equal for any
// number of them. Any number of threads may call this for one layer at a time.
int lilliput_sparse_run(const lilliput_sparse* layer, int64_t batch, const float* x, float* out, int threads);

#ifdef __cplusplus
}
#endif
