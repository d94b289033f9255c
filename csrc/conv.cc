#include "conv.h"

namespace {

bool between(int64_t low, int64_t value, int64_t high) { return low <= value && value <= high; }

}  // namespace

extern "C" int64_t lilliput_conv_output(const lilliput_conv* c, int axis) {
  const int64_t length = axis == 0 ? c->height : c->width;
  const int64_t reach = static_cast<int64_t>(c->kernel[axis] - 1) * c->dilation[axis] + 1;
  const int64_t left = length + 2 * static_cast<int64_t>(c->padding[axis]) - reach;
  return left < 0 ? 0 : left / c->stride[axis] + 1;
}

extern "C" int lilliput_conv_check(const lilliput_conv* c) {
  const int64_t channels = 1 << 20, side = 1 << 15, small = 1 << 10;
  if (!between(1, c->in, channels) || !between(1, c->out, channels) || !between(1, c->groups, channels) ||
      c->in % c->groups != 0 || c->out % c->groups != 0 || !between(1, c->height, side) || !between(1, c->width, side)) {
    return lilliput_layer_bad_shape;
  }
  for (int axis = 0; axis < 2; ++axis) {
    if (!between(1, c->kernel[axis], small) || !between(1, c->stride[axis], small) || !between(0, c->padding[axis], small) ||
        !between(1, c->dilation[axis], small) || lilliput_conv_output(c, axis) <= 0) {
      return lilliput_layer_bad_shape;
    }
  }
  // Offsets into the padded planes and numbers of taps are 32-bit; what they count is kept far below that.
  const int64_t padded = (c->height + 2LL * c->padding[0] + c->stride[0]) * (c->width + 2LL * c->padding[1] + c->stride[1]);
  const int64_t taps = static_cast<int64_t>(c->kernel[0]) * c->kernel[1];
  const int64_t most = 1 << 30;
  const bool fits = padded <= most / c->in && taps <= most / c->in && taps * (c->in / c->groups) <= most / c->out;
  return fits ? lilliput_layer_ok : lilliput_layer_bad_shape;
}
