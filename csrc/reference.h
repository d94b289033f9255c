// Convolutions by their definitions, for one image.
#pragma once

#include "binary.h"
#include "int4.h"
#include "kernels.h"

namespace lilliput {

// The dot product of output (o, oy, ox).
int64_t reference_dot(const lilliput_binary_layer& layer, const uint8_t* x, int64_t o, int64_t oy, int64_t ox);

// All outputs, floats or bits.
void reference_binary(const lilliput_binary_layer& layer, const uint8_t* x, void* out);

// All outputs.
void reference_int4(const lilliput_int4_layer& layer, const uint8_t* x, float* out);

}  // namespace lilliput
