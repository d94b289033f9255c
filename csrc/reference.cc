// The portable kernels, and the oracle of all others: direct loops over the definition, kept plain.
#include "reference.h"

#include <algorithm>

namespace lilliput {
namespace {

int ones(unsigned byte) {
  int count = 0;
  for (; byte != 0; byte &= byte - 1) ++count;
  return count;
}

struct Ones {
  Ones() {
    for (unsigned byte = 0; byte < 256; ++byte) of[byte] = static_cast<uint8_t>(ones(byte));
  }
  uint8_t of[256];
};

// Sign `c` of a pixel as 0 or 1.
unsigned sign(const uint8_t* x, int64_t image, int64_t c, int64_t at) { return (x[(c / 8) * image + at] >> (c % 8)) & 1u; }

// Of the signs of one group's window at a pixel of the image, byte `j`. Groups that begin inside a byte are put together.
unsigned group_byte(const lilliput_conv& c, const uint8_t* x, int64_t group, int64_t j, int64_t at) {
  const int64_t image = static_cast<int64_t>(c.height) * c.width, channels = c.in / c.groups;
  const int64_t first = group * channels + 8 * j, count = std::min<int64_t>(8, channels - 8 * j);
  unsigned byte = 0;
  for (int64_t b = 0; b < count; ++b) byte |= sign(x, image, first + b, at) << b;
  return byte;
}

}  // namespace

int64_t reference_dot(const lilliput_binary_layer& layer, const uint8_t* x, int64_t o, int64_t oy, int64_t ox) {
  static const Ones kOnes;
  const lilliput_conv& c = layer.conv;
  const int64_t channels = c.in / c.groups, bytes = (channels + 7) / 8, group = o / (c.out / c.groups);
  const int64_t image = static_cast<int64_t>(c.height) * c.width;
  const int64_t taps = static_cast<int64_t>(c.kernel[0]) * c.kernel[1];
  const bool aligned = (group * channels) % 8 == 0;
  int64_t dot = 0;
  for (int64_t ky = 0; ky < c.kernel[0]; ++ky) {
    for (int64_t kx = 0; kx < c.kernel[1]; ++kx) {
      const int64_t y = oy * c.stride[0] + ky * c.dilation[0] - c.padding[0];
      const int64_t x0 = ox * c.stride[1] + kx * c.dilation[1] - c.padding[1];
      const bool inside = y >= 0 && y < c.height && x0 >= 0 && x0 < c.width;
      if (!inside && layer.pad == 0) continue;
      for (int64_t j = 0; j < bytes; ++j) {
        const int64_t at = (o * bytes + j) * taps + ky * c.kernel[1] + kx;
        const unsigned mask = layer.mask == nullptr ? 255 : layer.mask[at];
        const unsigned valid = ((1u << std::min<int64_t>(8, channels - 8 * j)) - 1) & mask, w = layer.weight[at];
        unsigned a = layer.pad > 0 ? 255 : 0;
        if (inside && aligned) a = x[(group * channels / 8 + j) * image + y * c.width + x0];
        if (inside && !aligned) a = group_byte(c, x, group, j, y * c.width + x0);
        dot += kOnes.of[valid] - 2 * kOnes.of[(a ^ w) & valid];
      }
    }
  }
  return dot;
}

void reference_binary(const lilliput_binary_layer& layer, const uint8_t* x, void* out) {
  const lilliput_conv& c = layer.conv;
  const int64_t height = lilliput_conv_output(&c, 0), width = lilliput_conv_output(&c, 1);
  if (layer.least != nullptr) std::fill_n(static_cast<uint8_t*>(out), (c.out + 7) / 8 * height * width, 0);
  for (int64_t o = 0; o < c.out; ++o) {
    for (int64_t at = 0; at < height * width; ++at) {
      const int64_t dot = reference_dot(layer, x, o, at / width, at % width);
      if (layer.least != nullptr) {
        const bool bit = (dot >= layer.least[o]) != (layer.flip != nullptr && layer.flip[o] != 0);
        static_cast<uint8_t*>(out)[(o / 8) * height * width + at] |= static_cast<uint8_t>(bit << (o % 8));
      } else {
        const float scaled = static_cast<float>(dot) * layer.scale[o];
        static_cast<float*>(out)[o * height * width + at] = layer.bias == nullptr ? scaled : scaled + layer.bias[o];
      }
    }
  }
}

namespace {

int64_t int4_sum(const lilliput_int4_layer& layer, const uint8_t* x, int64_t o, int64_t oy, int64_t ox) {
  const lilliput_conv& c = layer.conv;
  const int64_t channels = c.in / c.groups, bytes = (channels + 1) / 2, first = o / (c.out / c.groups) * channels;
  const int64_t taps = static_cast<int64_t>(c.kernel[0]) * c.kernel[1];
  int64_t sum = 0;
  for (int64_t i = 0; i < channels; ++i) {
    for (int64_t ky = 0; ky < c.kernel[0]; ++ky) {
      for (int64_t kx = 0; kx < c.kernel[1]; ++kx) {
        const int64_t y = oy * c.stride[0] + ky * c.dilation[0] - c.padding[0];
        const int64_t x0 = ox * c.stride[1] + kx * c.dilation[1] - c.padding[1];
        if (y < 0 || y >= c.height || x0 < 0 || x0 >= c.width) continue;
        const int half = layer.weight[(o * bytes + i / 2) * taps + ky * c.kernel[1] + kx] >> (4 * (i % 2)) & 15;
        sum += (half < 8 ? half : half - 16) * (x[((first + i) * c.height + y) * c.width + x0] - layer.zero);
      }
    }
  }
  return sum;
}

}  // namespace

void reference_int4(const lilliput_int4_layer& layer, const uint8_t* x, float* out) {
  const int64_t height = lilliput_conv_output(&layer.conv, 0), width = lilliput_conv_output(&layer.conv, 1);
  for (int64_t o = 0; o < layer.conv.out; ++o) {
    for (int64_t at = 0; at < height * width; ++at) {
      const float scaled = static_cast<float>(int4_sum(layer, x, o, at / width, at % width)) * layer.scale[o];
      *out++ = layer.bias == nullptr ? scaled : scaled + layer.bias[o];
    }
  }
}

namespace {

void binarize(const float* x, int64_t stride, int channels, int64_t pixels, const float* least, uint8_t* out) {
  for (int64_t i = 0; i < pixels; ++i) {
    unsigned byte = 0;
    for (int c = 0; c < channels; ++c) byte |= (x[c * stride + i] >= (least == nullptr ? 0.0f : least[c]) ? 1u : 0u) << c;
    out[i] = static_cast<uint8_t>(byte);
  }
}

void sparse(const SparseTile& t) {
  for (int64_t o = t.first; o < t.last; ++o) {
    for (int64_t i = 0; i < t.pixels; ++i) {
      if (i % t.pitch >= t.width) continue;
      float sum = t.bias == nullptr ? 0.0f : t.bias[o];
      for (int64_t k = t.rows[o]; k < t.rows[o + 1]; ++k) sum += t.weights[k].value * t.planes[i + t.weights[k].offset];
      t.out[o * t.plane + i / t.pitch * t.width + i % t.pitch] = sum;
    }
  }
}

}  // namespace

// Without `run`: binary.cc and int4.cc call the definitions above instead, which need no planes.
extern const BinaryKernel binary_portable = {8, 1, 1, 0, 0, nullptr, nullptr, nullptr, binarize};
extern const BinaryKernel ternary_portable = {8, 1, 1, 0, 0, nullptr, nullptr, nullptr, binarize};
extern const Int4Kernel int4_portable = {1, 1, false, 0, nullptr, nullptr};
extern const SparseKernel sparse_portable = {1, 0, nullptr, sparse};

}  // namespace lilliput
