// The shape of a two-dimensional convolution, as every kernel is told it.
#pragma once

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

// Channels, the size of one input image, and (vertical, horizontal) numbers. `in` and `out` are multiples of `groups`.
typedef struct {
  int32_t in, out, groups;
  int32_t height, width;
  int32_t kernel[2], stride[2], padding[2], dilation[2];
} lilliput_conv;

enum lilliput_layer_status {
  lilliput_layer_ok = 0,
  lilliput_layer_bad_shape = 1,      // a number out of range, or no output pixel
  lilliput_layer_bad_weights = 2,    // indices that no weight has
  lilliput_layer_no_such_kernel = 3, // no kernel of the name asked for
  lilliput_layer_not_here = 4,       // this processor cannot run it
  lilliput_layer_no_memory = 5,
};

// The output size along axis 0 (vertical) or 1; not positive where there is no output pixel.
int64_t lilliput_conv_output(const lilliput_conv* conv, int axis);

// Whether every number is in range, and sizes can be multiplied without overflow.
int lilliput_conv_check(const lilliput_conv* conv);

// The kernels built here, as "family name" lines, best first; `usable` says whether this processor runs number `index`.
// Null after the last.
const char* lilliput_kernel_row(int index, const char** family, int* usable);

#ifdef __cplusplus
}
#endif
