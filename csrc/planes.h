// Where the pixels of a padded image lie, so that every tap of a convolution is one constant distance away.
//
// An image is copied into planes with its padding around it. A stride of s keeps s planes ("phases") a direction, so that what
// neighbouring output pixels read lies side by side. Flat pixel i = y * pitch + x; those with x >= output width are of no use
// and are never copied out.
#pragma once

#include <cstdint>
#include <vector>

#include "conv.h"

namespace lilliput {

struct Planes {
  explicit Planes(const lilliput_conv& conv)
      : c(conv),
        out_height(lilliput_conv_output(&conv, 0)),
        out_width(lilliput_conv_output(&conv, 1)),
        rows(up(conv.height + 2LL * conv.padding[0], conv.stride[0])),
        pitch(up(conv.width + 2LL * conv.padding[1], conv.stride[1])),
        size(rows * pitch * conv.stride[0] * conv.stride[1]),
        pixels((out_height - 1) * pitch + out_width) {}

  int64_t taps() const { return static_cast<int64_t>(c.kernel[0]) * c.kernel[1]; }

  // Of the padded pixel (y, x), in a plane.
  int64_t place(int64_t y, int64_t x) const {
    const int64_t phase = (y % c.stride[0]) * c.stride[1] + x % c.stride[1];
    return (phase * rows + y / c.stride[0]) * pitch + x / c.stride[1];
  }

  int64_t tap(int64_t ky, int64_t kx) const { return place(ky * c.dilation[0], kx * c.dilation[1]); }

  // Whether the planes are the image itself.
  bool plain() const { return size == static_cast<int64_t>(c.height) * c.width && c.stride[0] == 1 && c.stride[1] == 1; }

  // `value(x)` for every pixel of row y of an image, to its place in `plane`.
  template <class Unit, class Value>
  void copy_row(Unit* plane, int64_t y, Value value) const {
    const int64_t s = c.stride[1];
    for (int64_t first = 0; first < s; ++first) {  // one phase at a time; with a stride of 1 the loop below is plain
      int64_t x = ((first - c.padding[1]) % s + s) % s;
      Unit* to = plane + place(y + c.padding[0], x + c.padding[1]);
      for (; x < c.width; x += s) *to++ = value(x);
    }
  }

  static int64_t up(int64_t a, int64_t b) { return (a + b - 1) / b; }

  lilliput_conv c;
  int64_t out_height, out_width, rows, pitch, size, pixels;
};

// Which taps of a window lie outside the image, for every output row (or column): a class is a set of such taps.
struct Edges {
  Edges(const lilliput_conv& c, int axis) : of(static_cast<size_t>(lilliput_conv_output(&c, axis))) {
    const int64_t length = axis == 0 ? c.height : c.width;
    for (size_t i = 0; i < of.size(); ++i) {
      std::vector<char> out(static_cast<size_t>(c.kernel[axis]));
      for (size_t k = 0; k < out.size(); ++k) {
        const int64_t at = static_cast<int64_t>(i) * c.stride[axis] + static_cast<int64_t>(k) * c.dilation[axis] - c.padding[axis];
        out[k] = at < 0 || at >= length;
      }
      size_t known = 0;
      while (known < outside.size() && outside[known] != out) ++known;
      if (known == outside.size()) outside.push_back(out);
      of[i] = static_cast<int>(known);
    }
  }

  std::vector<int> of;                     // the class of every output row
  std::vector<std::vector<char>> outside;  // [class][tap]
};

}  // namespace lilliput
