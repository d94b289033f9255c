// Indices of a codebook whose values ascend: how far from its middle, and on which side.
//
// Of a sparse layer one index stands apart, that of zero. All others are a side of the pivot and a distance from it, which is
// the magnitude of a weight in steps of the codebook: what was near, in the same kernel, in the same row says how large it
// will be. A distance is a tree of bits, each mixed from this tensor, from all, and from those of like surroundings.
#pragma once

#include <algorithm>

#include "trellis.h"

namespace lilliput {

constexpr int kOrderedBits = 8, kInner = 10, kTrust = 12, kOrderedModels = 4, kApartModels = 6;
constexpr int kOrderedSlow = 16;

struct Ordered {
  Cell near[kTurnLevels];
  Cell kernel[kTurnLevels][4];
  Cell row[kTurnLevels][4];
  Cell inner[kInner][kTurnLevels];
  Cell both[kTurnLevels][kTurnLevels];
  Cell alone;
  Cell around[27];
  Cell side;
  Cell own[2][1 << kOrderedBits];  // begun anew for every tensor
  Cell shared[1 << kOrderedBits];
  Cell within[kTurnLevels][1 << kOrderedBits];
  Cell about[kTurnLevels][1 << kOrderedBits];
  Mixer<kApartModels> apart[kInner];
  Mixer<2> side_mixer;
  Mixer<kOrderedModels> tree[kOrderedBits][kTrust];
  Ordered();
  void next_tensor();
};

// The distances before, with their sides, in the order of a scan; 0 stands for what is apart.
class Distances {
 public:
  struct View {
    int near, kernel, row, tap, inner, within, about, there[2], around;
  };

  explicit Distances(const Shape& shape)
      : taps_(static_cast<size_t>(shape.taps)), before_(static_cast<size_t>(shape.row()) + 1), now_(before_.size()),
        kernels_(static_cast<size_t>(shape.kernels)) {}

  void next_row() {
    now_.swap(before_);
    j_ = 0;
  }

  View view(size_t kernel) const {
    const auto tap = static_cast<uint32_t>(j_ % taps_);
    const int left = ago(1), up = ago(taps_), back = before_[j_];
    const uint32_t sum = tap ? sum_ : 0, there = tap ? there_ : 0;
    View v;
    v.near = fine_level((2 * (size(left) + size(up) + size(back)) + size(ago(2)) + size(before_[j_ + 1])) >> 1);
    v.kernel = fine_level(static_cast<uint32_t>(kernels_[kernel]) >> 3);
    v.row = fine_level(static_cast<uint32_t>(run_) >> 3);
    v.tap = static_cast<int>(tap < kInner ? tap : kInner - 1);
    v.inner = tap ? fine_level(2 * sum / tap) : 0;
    v.within = there ? fine_level(2 * sum / there) : 0;
    v.about = fine_level(static_cast<uint32_t>(run_ + kernels_[kernel]) >> 4);
    v.there[0] = (left != 0) + 2 * (up != 0);
    v.there[1] = (back != 0) + 2 * (left != 0);
    v.around = 9 * (tap ? sign(left) : 0) + 3 * sign(up) + sign(back);
    return v;
  }

  void add(size_t kernel, int distance) {
    const int m = distance < 0 ? -distance : distance;
    if (j_ % taps_ == 0) sum_ = there_ = 0;
    now_[j_++] = static_cast<int16_t>(distance);
    sum_ += static_cast<uint32_t>(m);
    there_ += m != 0;
    run_ += (16 * m - run_) >> 4;
    kernels_[kernel] += (16 * m - kernels_[kernel]) >> 4;
  }

 private:
  static uint32_t size(int x) { return static_cast<uint32_t>(x < 0 ? -x : x); }
  static int sign(int x) { return x > 0 ? 2 : x < 0 ? 1 : 0; }
  int ago(size_t count) const { return j_ >= count ? now_[j_ - count] : 0; }

  size_t taps_, j_ = 0;
  std::vector<int16_t> before_, now_;
  std::vector<int32_t> kernels_;
  int32_t run_ = 0;
  uint32_t sum_ = 0, there_ = 0;
};

template <class IO>
bool stands_apart(IO& io, Ordered& m, const Distances::View& v, bool b) {
  Cell* const cells[kApartModels] = {&m.near[v.near], &m.kernel[v.kernel][v.there[0]], &m.row[v.row][v.there[1]],
                                     &m.inner[v.tap][v.inner], &m.both[v.inner][v.row], &m.alone};
  return mixed(io, m.apart[v.tap], cells, b, kLimit, kOrderedSlow);
}

template <class IO>
int ordered_distance(IO& io, Ordered& m, const Distances::View& v, int distance, int depth) {
  Cell* const sides[2] = {&m.around[v.around], &m.side};
  const int side = mixed(io, m.side_mixer, sides, distance < 0, kLimit, kSlow);
  const auto above = static_cast<uint32_t>((distance < 0 ? -distance : distance) - 1);
  uint32_t node = 1;
  for (int place = depth - 1; place >= 0; --place) {
    Cell& own = m.own[side][node];
    Cell* const cells[kOrderedModels] = {&own, &m.shared[node], &m.within[v.within][node], &m.about[v.about][node]};
    const int trust = std::min(bit_length(own & 1023), kTrust - 1);
    const int b = mixed(io, m.tree[depth - 1 - place][trust], cells, static_cast<int>(above >> place & 1), kLimit, kOrderedSlow);
    node = node << 1 | static_cast<uint32_t>(b);
  }
  const int found = static_cast<int>(node - (1u << depth)) + 1;
  return side ? -found : found;
}

}  // namespace lilliput
