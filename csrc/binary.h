// Convolutions of signs: activations are +1 (bit 1) or -1 (bit 0), eight channels in a byte; so are weights, or they are 0.
#pragma once

#include <stdint.h>

#include "conv.h"

#ifdef __cplusplus
extern "C" {
#endif

// `activations`: [batch][ceil(in / 8)][height][width] bytes; bit b of byte j is the sign of channel 8j + b, and bits that
// belong to no channel are ignored on input and 0 on output. `weight`: [out][ceil(in / groups / 8)][kernel height][width].
//
// Outside the image stands `pad` (-1, 0 or +1). The dot product of an output is the sum of products over its window. With
// `mask`, weights are ternary: those whose bit in it is 0 are 0. With `scale`, run writes floats [batch][out][height][width]:
// dot * scale[o], then + bias[o] unless `bias` is null, each rounded once. With `least` instead, run writes bits:
// (dot >= least[o]) != flip[o].
typedef struct {
  lilliput_conv conv;
  int32_t pad;
  const uint8_t* weight;
  const float* scale;
  const float* bias;
  const int32_t* least;
  const uint8_t* flip;  // one byte a channel, or null for none
  const uint8_t* mask;  // as `weight`, or null: no weight is 0
} lilliput_binary_layer;

typedef struct lilliput_binary lilliput_binary;

// A layer that is ready to run; everything is copied. `kernel` names a row of kernels.inc, or is null; the family is `ternary`
// with a mask and `binary` without.
int lilliput_binary_new(const lilliput_binary_layer* layer, const char* kernel, lilliput_binary** made);
void lilliput_binary_free(lilliput_binary* layer);

// The kernel that runs it. A shape that a kernel does not cover (over 64 ways of hanging over the edge, or over 32767
// products an output) is run by the portable one.
const char* lilliput_binary_kernel(const lilliput_binary* layer);

// `out` is floats or bytes. Computed by up to `threads` threads, the same for any number of them. Any number of threads may
// call this for one layer at a time.
int lilliput_binary_run(const lilliput_binary* layer, int64_t batch, const uint8_t* activations, void* out, int threads);

// The signs of floats [batch][channels][pixels]: bit = x >= least[channel] (0 where null). NaN gives 0.
int lilliput_binarize(const float* x, int64_t batch, int32_t channels, int64_t pixels, const float* least, const char* kernel,
                      uint8_t* out);

#ifdef __cplusplus
}
#endif
