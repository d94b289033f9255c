// Convolutions of bytes by weights of four bits: whole numbers, exact.
#pragma once

#include <stdint.h>

#include "conv.h"

#ifdef __cplusplus
extern "C" {
#endif

// Activations: [batch][in][height][width], 0 to 255, of which `zero` stands for 0; it also stands outside the image. `weight`:
// [out][ceil(in / groups / 2)][kernel height][width]; a byte holds channels 2j (its low half) and 2j + 1, -8 to 7 in two's
// complement, and halves that belong to no channel are ignored.
//
// Run writes floats [batch][out][height][width]: sum * scale[o], then + bias[o] unless `bias` is null, each rounded once, where
// the sum over weight * (activation - zero) is a whole number, rounded to a float.
typedef struct {
  lilliput_conv conv;
  int32_t zero;
  const uint8_t* weight;
  const float* scale;
  const float* bias;  // or null
} lilliput_int4_layer;

typedef struct lilliput_int4 lilliput_int4;

// A layer that is ready to run; everything is copied. `kernel` names a row of kernels.inc, or is null.
int lilliput_int4_new(const lilliput_int4_layer* layer, const char* kernel, lilliput_int4** made);
void lilliput_int4_free(lilliput_int4* layer);

// The kernel that runs it: the portable one where sums could pass 32 bits.
const char* lilliput_int4_kernel(const lilliput_int4* layer);

// Computed by up to `threads` threads, the same for any number of them. Any number of threads may call this for one layer at a
// time.
int lilliput_int4_run(const lilliput_int4* layer, int64_t batch, const uint8_t* x, float* out, int threads);

#ifdef __cplusplus
}
#endif
