// Models of whole numbers: how a quantizer's codes, a mask or a codebook's indices become bits, and which bits resemble which.
//
// A tensor is rows of `kernels` kernels of `taps` numbers. What a number is likely to be is read off the magnitudes coded
// before it: those beside it in the row, at the same tap of the kernel before and of the row before, and how large the
// numbers of its input channel and the latest of its row have been. A magnitude is the distance from the tensor's centre.
#pragma once

#include "coder.h"

namespace lilliput {

struct Shape {
  int64_t rows, kernels, taps;
  int64_t row() const { return kernels * taps; }
  int64_t count() const { return rows * row(); }
};

constexpr uint32_t kLimit = 1000;  // how many bits a cell remembers at most
constexpr int kSlow = 18;          // how slowly weights follow the error
constexpr int kModels = 4;
constexpr int kLevels = 16;        // of magnitude, about two an octave
constexpr int kSteps = 68;         // is it zero, 1, 2, and the length of what is left

inline int bit_length(uint64_t x) {
#if defined(__GNUC__) || defined(__clang__)
  return x ? 64 - __builtin_clzll(x) : 0;
#else
  int n = 0;
  for (; x; x >>= 1) ++n;
  return n;
#endif
}

inline int level(uint32_t x) {
  if (x < 3) return static_cast<int>(x);
  const int n = bit_length(x);  // two levels an octave: by the bit after the first
  const int found = 2 * n - 2 + static_cast<int>(x >> (n - 2) & 1);
  return found < kLevels ? found : kLevels - 1;
}

// Everything that is learnt about numbers; the tensors of a section share it.
struct Numbers {
  Cell near[kSteps][kLevels];
  Cell kernel[kSteps][kLevels][4];
  Cell row[kSteps][kLevels][4];
  Cell alone[kSteps];
  Mixer<kModels> mixer[kSteps];
  Cell sign;
  Cell length[kLevels][128];    // a tree over the bits of a length
  Cell mantissa[2][9][256];     // trees over what follows the first bit
  Cell low_bits[64];
  Cell index[4096];             // a tree over the indices of a codebook
  Numbers();
};

// Magnitudes of what was coded before, in the order of a scan through the tensor.
class Past {
 public:
  struct View {
    int near, kernel, row, left, back;
  };

  explicit Past(const Shape& shape)
      : taps_(static_cast<size_t>(shape.taps)), before_(static_cast<size_t>(shape.row()) + 1), now_(before_.size()),
        kernels_(static_cast<size_t>(shape.kernels)) {}

  void next_row() {
    now_.swap(before_);
    j_ = 0;
  }

  View view(size_t kernel) const {
    const uint32_t left = j_ > 0 ? now_[j_ - 1] : 0, second = j_ > 1 ? now_[j_ - 2] : 0;
    const uint32_t up = j_ >= taps_ ? now_[j_ - taps_] : 0, back = before_[j_];
    View v;
    v.near = level(2 * (left + up + back) + second + before_[j_ + 1]);
    v.kernel = level(kernels_[kernel] >> 4);
    v.row = level(run_ >> 5);
    v.left = static_cast<int>(left < 3 ? left : 3);
    v.back = static_cast<int>(back < 3 ? back : 3);
    return v;
  }

  // All that `near` looks at, which is all that dense tensors need.
  int near() const {
    const uint32_t left = j_ > 0 ? now_[j_ - 1] : 0, second = j_ > 1 ? now_[j_ - 2] : 0;
    const uint32_t up = j_ >= taps_ ? now_[j_ - taps_] : 0;
    return level(2 * (left + up + before_[j_]) + second + before_[j_ + 1]);
  }
  void add_near(uint64_t magnitude) { now_[j_++] = static_cast<uint8_t>(magnitude < 255 ? magnitude : 255); }

  void add(size_t kernel, uint64_t magnitude) {
    const int32_t m = magnitude < 255 ? static_cast<int32_t>(magnitude) : 255;
    now_[j_++] = static_cast<uint8_t>(m);
    run_ += (256 * m - run_) >> 4;
    kernels_[kernel] += (256 * m - kernels_[kernel]) >> 5;
  }

 private:
  size_t taps_, j_ = 0;
  std::vector<uint8_t> before_, now_;
  std::vector<int32_t> kernels_;
  int32_t run_ = 0;
};

// How a tensor is coded; written before it.
enum class Kind : uint8_t { mixed = 0, dense = 1, index = 2, sparse_index = 3, patterns = 4, turns = 5, ordered = 6, lines = 7 };
constexpr int kKindBits = 3, kIndexBits = 12;

struct Range {
  int64_t low, high, centre;
  uint64_t above() const { return static_cast<uint64_t>(high) - static_cast<uint64_t>(centre); }
  uint64_t below() const { return static_cast<uint64_t>(centre) - static_cast<uint64_t>(low); }
  uint64_t side(bool negative) const { return negative ? below() : above(); }
};

template <class IO>
int stepped(IO& io, Numbers& m, int step, const Past::View& v, int b) {
  Cell* const cells[kModels] = {&m.near[step][v.near], &m.kernel[step][v.kernel][v.left], &m.row[step][v.row][v.back],
                                &m.alone[step]};
  return mixed(io, m.mixer[step], cells, b, kLimit, kSlow);
}

// The `n` bits below the first one of a number: up to eight by a tree, the rest each by its place.
template <class IO>
uint64_t after_first(IO& io, Numbers& m, int which, uint64_t x, int n) {
  Cell* tree = m.mantissa[which][(n < 9 ? n : 9) - (n > 0)];
  const int below = n < 8 ? 0 : n - 8;
  uint64_t found = by_tree(io, tree, x >> below, n - below, kLimit);
  for (int i = below - 1; i >= 0; --i) found = found << 1 | static_cast<uint64_t>(coded(io, m.low_bits[i], x >> i & 1, kLimit));
  return found;
}

// A magnitude of at least one and at most `most`: over 1? over 2? then how long what is over 2 is, and its bits.
template <class IO>
uint64_t stepped_magnitude(IO& io, Numbers& m, const Past::View& v, uint64_t x, uint64_t most) {
  for (uint64_t step = 1; step <= 2; ++step) {
    if (most <= step || !stepped(io, m, static_cast<int>(step), v, x > step)) return step;
  }
  const uint64_t rest = x - 2;
  const int length = IO::decodes ? 0 : bit_length(rest), longest = bit_length(most - 2);
  int n = 1;
  while (n < longest && stepped(io, m, 2 + n, v, length > n)) ++n;
  return after_first(io, m, 0, rest, n - 1) + 2;
}

template <class IO>
bool signed_side(IO& io, Numbers& m, const Range& range, bool negative) {
  if (range.above() == 0 || range.below() == 0) return range.above() == 0;
  return coded_evenly(io, m.sign, negative, kLimit);
}

// One number, as its side of the centre and its distance from it; a distance of zero has no side.
struct Offset {
  bool negative;
  uint64_t magnitude;
};

template <class IO>
Offset mixed_number(IO& io, Numbers& m, const Past::View& v, Offset x, const Range& range) {
  if ((range.above() | range.below()) == 0 || !stepped(io, m, 0, v, x.magnitude != 0)) return {false, 0};
  x.negative = signed_side(io, m, range, x.negative);
  x.magnitude = stepped_magnitude(io, m, v, x.magnitude, range.side(x.negative));
  return x;
}

template <class IO>
Offset dense_number(IO& io, Numbers& m, int near, Offset x, const Range& range, int depth) {
  const int length = IO::decodes ? 0 : bit_length(x.magnitude);
  const auto n = static_cast<int>(by_tree(io, m.length[near], static_cast<uint64_t>(length), depth, kLimit) - (1ull << depth));
  if (n == 0) return {false, 0};
  x.negative = signed_side(io, m, range, x.negative);
  x.magnitude = n > 64 ? ~0ull : after_first(io, m, 1, x.magnitude, n - 1);
  return x;
}

template <class IO>
uint64_t index_number(IO& io, Numbers& m, uint64_t x, int width) {
  return by_tree(io, m.index, x, width, kLimit) - (1ull << width);
}

}  // namespace lilliput
