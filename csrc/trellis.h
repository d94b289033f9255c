// Two quantizers of twice the step that take turns: numbers of which only every other one is possible, in fewer bits.
//
// What is coded is k; the number is 2k in one quantizer and 2k - sign(k) in the other, and which of them the next number uses
// follows from whether the k so far were odd. Chosen by a search through all paths, such numbers lie closer to any given ones
// than those of one quantizer that take as many bits (Marcellin and Fischer 1990; Schwarz et al. 2021 for weights of networks).
// Contexts are finer than those of numbers.h, and signs have some, too.
#pragma once

#include <algorithm>

#include "numbers.h"

namespace lilliput {

// Sixteen states, the latest parities but for what is fed back; the path that uniform numbers are closest to.
struct Trellis {
  static constexpr uint32_t kStates = 16, kTurns = 5, kBack = 10;
  uint32_t state = 0;

  static uint32_t odd(uint32_t x) { return (0x6996u >> x) & 1; }
  uint32_t quantizer() const { return odd(state & kTurns); }
  void step(int64_t k) { state = (state << 1 | ((static_cast<uint32_t>(k) & 1) ^ odd(state & kBack))) & (kStates - 1); }

  int64_t number(int64_t k) const { return 2 * k - (k > 0 ? quantizer() : 0) + (k < 0 ? quantizer() : 0); }
  bool holds(int64_t number) const { return number == 0 || (number & 1) == quantizer(); }
  int64_t code(int64_t number) const { return (number + (number > 0 ? quantizer() : 0) - (number < 0 ? quantizer() : 0)) / 2; }
};

constexpr int kTurnModels = 8, kUnary = 14, kTurnSteps = kUnary + 32, kTurnLevels = 32, kTaps = 32;
constexpr int kTurnSlow = 16;

// Magnitudes by four levels an octave.
inline int fine_level(uint32_t x) {
  if (x < 8) return static_cast<int>(x);
  const int n = bit_length(x), found = 4 * (n - 2) + static_cast<int>(x >> (n - 3) & 3);
  return found < kTurnLevels ? found : kTurnLevels - 1;
}

struct Turns {
  Cell near[kTurnSteps][2][kTurnLevels];
  Cell wide[kTurnSteps][kTurnLevels];
  Cell kernel[kTurnSteps][kTurnLevels][4];
  Cell row[kTurnSteps][kTurnLevels][4];
  Cell both[kTurnSteps][kTurnLevels];
  Cell tap[kTurnSteps][2][kTaps];
  Cell pair[kTurnSteps][kLevels][kLevels];
  Cell alone[kTurnSteps][2];
  Mixer<kTurnModels> mixer[kTurnSteps];
  Cell around[27];
  Cell beside[kTaps][9];
  Cell sign;
  Mixer<3> sign_mixer;
  Cell mantissa[9][256];
  Cell low_bits[64];
  Turns();
};

// The codes before, in the order of a scan, with their signs.
class Trail {
 public:
  struct View {
    int near, wide, kernel, row, both, tap, pair[2], left, back, around, beside;
  };

  explicit Trail(const Shape& shape)
      : taps_(static_cast<size_t>(shape.taps)), before_(static_cast<size_t>(shape.row()) + 1), now_(before_.size()),
        kernels_(static_cast<size_t>(shape.kernels)), places_(taps_) {}

  void next_row() {
    now_.swap(before_);
    j_ = 0;
  }

  View view(size_t kernel) const {
    const size_t tap = j_ % taps_;
    const int left = code(1), second = code(2), up = code(taps_), higher = code(2 * taps_), back = before_[j_];
    const uint32_t three = size(left) + size(up) + size(back), after = size(before_[j_ + 1]);
    View v;
    v.near = fine_level(2 * three + size(second) + after);
    v.wide = fine_level(2 * (three + size(second) + size(higher) + after + size(j_ > 0 ? before_[j_ - 1] : 0)));
    v.kernel = average(kernels_[kernel]);
    v.row = average(run_);
    v.both = average(kernels_[kernel] + run_ + slow_);
    v.tap = static_cast<int>(tap < kTaps ? tap : kTaps - 1);
    v.pair[0] = level(size(left) + size(up));
    v.pair[1] = level(static_cast<uint32_t>(slow_ + places_[tap]) >> 5);
    v.left = static_cast<int>(std::min(size(left), 3u));
    v.back = static_cast<int>(std::min(size(back), 3u));
    const int beside = tap > 0 ? side(left) : 0;
    v.around = 9 * beside + 3 * side(up) + side(back);
    v.beside = 3 * (tap > 2 ? side(code(3)) : 0) + beside;
    return v;
  }

  void add(size_t kernel, int64_t k) {
    const auto x = static_cast<int32_t>(std::clamp<int64_t>(k, -255, 255)), m = 256 * (x < 0 ? -x : x);
    int32_t& place = places_[j_ % taps_];
    now_[j_++] = static_cast<int16_t>(x);
    run_ += (m - run_) >> 4;
    slow_ += (m - slow_) >> 7;
    kernels_[kernel] += (m - kernels_[kernel]) >> 5;
    place += (m - place) >> 6;
  }

 private:
  static uint32_t size(int x) { return static_cast<uint32_t>(x < 0 ? -x : x); }
  static int side(int x) { return x > 0 ? 2 : x < 0 ? 1 : 0; }
  static int average(int32_t x) { return fine_level(static_cast<uint32_t>(x) >> 6); }
  int code(size_t ago) const { return j_ >= ago ? now_[j_ - ago] : 0; }

  size_t taps_, j_ = 0;
  std::vector<int16_t> before_, now_;
  std::vector<int32_t> kernels_, places_;
  int32_t run_ = 0, slow_ = 0;
};

template <class IO>
int turn_step(IO& io, Turns& m, int step, const Trail::View& v, uint32_t q, int b) {
  Cell* const cells[kTurnModels] = {&m.near[step][q][v.near],       &m.wide[step][v.wide],
                                    &m.kernel[step][v.kernel][v.left], &m.row[step][v.row][v.back],
                                    &m.both[step][v.both],          &m.tap[step][q][v.tap],
                                    &m.pair[step][v.pair[0]][v.pair[1]], &m.alone[step][q]};
  return mixed(io, m.mixer[step], cells, b, kLimit, kTurnSlow);
}

// A magnitude: is it over 0, 1, ... 13? then how long what is over 13 is, and its bits.
template <class IO>
int64_t turn_rest(IO& io, Turns& m, const Trail::View& v, uint32_t q, int64_t rest) {
  const int length = IO::decodes ? 0 : bit_length(static_cast<uint64_t>(rest));
  int n = 1;
  while (n < 32 && turn_step(io, m, kUnary - 1 + n, v, q, length > n)) ++n;
  const int top = std::min(n - 1, 8);
  uint64_t found = by_tree(io, m.mantissa[top], static_cast<uint64_t>(rest) >> (n - 1 - top), top, kLimit);
  for (int i = n - 2 - top; i >= 0; --i) found = found << 1 | static_cast<uint64_t>(coded(io, m.low_bits[i], rest >> i & 1, kLimit));
  return static_cast<int64_t>(found);
}

template <class IO>
int64_t turn_code(IO& io, Turns& m, const Trail::View& v, uint32_t q, int64_t k) {
  const int64_t size = k < 0 ? -k : k;
  if (!turn_step(io, m, 0, v, q, size > 0)) return 0;
  Cell* const signs[3] = {&m.around[v.around], &m.beside[v.tap][v.beside], &m.sign};
  const bool negative = mixed(io, m.sign_mixer, signs, k < 0, kLimit, kSlow);
  int64_t found = 1;
  while (found < kUnary && turn_step(io, m, static_cast<int>(found), v, q, size > found)) ++found;
  if (found == kUnary) found += turn_rest(io, m, v, q, size - kUnary + 1) - 1;
  return negative ? -found : found;
}

}  // namespace lilliput
