// Bit patterns of float32 numbers that ascend, such as the values of a codebook: each by how far it is from where its
// neighbours point, in units of the last place, or by that it lies on the straight line between the ends of its row.
//
// Where they point is computed in whole numbers: values in units of 2^-48 of the larger end, rounded to the nearest float32.
#pragma once

#include <algorithm>

#include "numbers.h"

namespace lilliput {

constexpr int kLengthBits = 6, kLongestDistance = 33, kTopBits = 3, kLineModels = 3, kLineSlow = 14;
constexpr uint32_t kLineLimit = 255;
constexpr int64_t kLongestLine = 4096;  // numbers in a row
constexpr int64_t kHighestPlace = 0x7fffffff, kLowestPlace = -1 - kHighestPlace;

// Patterns in the order of the values they stand for: -0.0 is -1, right below 0.0.
inline int64_t place_of(int32_t pattern) {
  const int64_t size = pattern & kHighestPlace;
  return pattern < 0 ? -1 - size : size;
}

inline int32_t pattern_at(int64_t place) {
  return static_cast<int32_t>(place < 0 ? (-1 - place) + kLowestPlace : place);
}

// Values in units of a power of two, from places and back.
class Scale {
 public:
  Scale(int64_t first, int64_t last) : unit_(std::max(exponent(size(first)), exponent(size(last))) - kFiner) {}

  int64_t value(int64_t place) const {
    const int64_t x = size(place), shift = exponent(x) - unit_;
    const int64_t mantissa = x >> kMantissa ? (x & (kFirst - 1)) | kFirst : x;
    const int64_t found = shift < 0 ? (shift > -63 ? mantissa >> -shift : 0) : mantissa << std::min<int64_t>(shift, kWidest);
    return place < 0 ? -found : found;
  }

  int64_t nearest(int64_t value) const {
    if (value == 0) return 0;
    const auto x = static_cast<uint64_t>(value < 0 ? -value : value);
    const int64_t shift = std::max<int64_t>(bit_length(x) - kMantissa - 1, kLeastExponent - unit_);
    uint64_t found = shift <= 0 ? x << -shift : x >> shift;
    if (shift > 0) {
      const uint64_t rest = x & ((1ull << shift) - 1), half = 1ull << (shift - 1);
      found += rest > half || (rest == half && (found & 1));
    }
    found += static_cast<uint64_t>(unit_ + shift - kLeastExponent) << kMantissa;
    const auto place = static_cast<int64_t>(std::min<uint64_t>(found, kHighestPlace));
    return value < 0 ? -1 - place : place;
  }

 private:
  static constexpr int64_t kMantissa = 23, kFirst = 1 << 23, kLeastExponent = -149, kFiner = 24, kWidest = 36;
  static int64_t size(int64_t place) { return place < 0 ? -1 - place : place; }
  static int64_t exponent(int64_t size) { return std::max<int64_t>(size >> kMantissa, 1) + kLeastExponent - 1; }

  int64_t unit_;
};

struct Lines {
  Cell on[4];
  Cell off[2];
  Cell side[3];
  Cell mean[1 + kLongestDistance / 2][1 << kLengthBits];
  Cell after[4][1 << kLengthBits];
  Cell alone[1 << kLengthBits];
  Cell top[1 << kTopBits];
  Mixer<kLineModels> mixer[kLengthBits];
  Lines();
};

// What the numbers before in a row say about the next.
struct Trace {
  int64_t before = 0, second = 0;  // their values
  int on = 3;                      // whether the two before lay on the line
  int lengths[2] = {16, 16};       // of the latest distances
  int side = 0;                    // of the latest: none, above, below
};

// How long a distance is: bits by a tree, each mixed from three cells.
template <class IO>
int line_length(IO& io, Lines& m, const Trace& t, int length) {
  const int mean = (t.lengths[0] + t.lengths[1]) / 4;
  uint32_t node = 1;
  for (int i = kLengthBits - 1; i >= 0; --i) {
    Cell* const cells[kLineModels] = {&m.mean[mean][node], &m.after[t.on][node], &m.alone[node]};
    node = node << 1 | static_cast<uint32_t>(mixed(io, m.mixer[i], cells, length >> i & 1, kLineLimit, kLineSlow));
  }
  return static_cast<int>(node - (1u << kLengthBits));
}

// A distance of any size. False for one that is too long for any two places.
template <class IO>
bool line_distance(IO& io, Lines& m, Trace& t, int64_t& distance) {
  const auto size = static_cast<uint64_t>(distance < 0 ? -distance : distance);
  const int n = line_length(io, m, t, IO::decodes ? 0 : bit_length(size));
  if (n > kLongestDistance) return false;
  t.lengths[1] = t.lengths[0];
  t.lengths[0] = n;
  const bool negative = distance < 0;
  distance = 0;
  if (n == 0) return true;
  const bool below = coded(io, m.side[t.side], negative, kLineLimit);
  t.side = 1 + below;
  const int top = std::min(n - 1, kTopBits), rest = n - 1 - top;
  const uint64_t found = by_tree(io, m.top, size >> rest, top, kLineLimit) << rest;
  distance = static_cast<int64_t>(found | plain_bits(io, size & ((1ull << rest) - 1), rest));
  if (below) distance = -distance;
  return true;
}

// A distance of at most one.
template <class IO>
int64_t line_step(IO& io, Lines& m, int64_t distance) {
  if (!coded(io, m.off[0], distance != 0, kLineLimit)) return 0;
  return coded(io, m.off[1], distance < 0, kLineLimit) ? -1 : 1;
}

// The place of a number between the ends of its row: `straight` on their line, `guess` where the two before point.
template <class IO>
bool line_place(IO& io, Lines& m, Trace& t, int64_t straight, int64_t guess, int64_t& place) {
  const int64_t step = place - straight;
  const bool on = coded(io, m.on[t.on], step >= -1 && step <= 1, kLineLimit);
  int64_t distance = place - guess;
  if (!on && !line_distance(io, m, t, distance)) return false;
  place = on ? straight + line_step(io, m, step) : guess + distance;
  t.on = (t.on << 1 | static_cast<int>(on)) & 3;
  return kLowestPlace <= place && place <= kHighestPlace;
}

}  // namespace lilliput
