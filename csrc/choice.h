// How each tensor of a section is coded: what the ways would cost, and which is taken.
#pragma once

#include <algorithm>
#include <array>
#include <memory>
#include <vector>

#include "codec.h"
#include "tensors.h"

namespace lilliput {

constexpr int64_t kSample = 1 << 13;  // numbers that decide how a tensor is coded

constexpr Kind kKinds[] = {Kind::dense, Kind::mixed, Kind::index, Kind::sparse_index, Kind::turns, Kind::ordered};
constexpr size_t kWays = sizeof(kKinds) / sizeof(Kind), kMixedWay = 1, kIndexWay = 2, kOrderedWay = 5;
constexpr uint64_t kNever = 1ull << 62;
constexpr int64_t kShortestLine = 8;
constexpr int64_t kNoChance = 40;  // so many numbers that are not zero have been chosen to take turns

inline int64_t priced_rows(const Spec& spec) {
  const int64_t part = std::max(kSample, spec.shape.count() / 8);
  return std::min(spec.shape.rows, std::max<int64_t>(1, part / spec.shape.row()));
}

inline bool may_take_turns(const Spec& spec, size_t bytes) {
  return bytes <= 4 && spec.range.low <= 0 && spec.range.high >= 0 && spec.kind != Kind::patterns;
}

template <class T>
bool takes_turns(const T* data, const Spec& spec) {
  if (!may_take_turns(spec, sizeof(T))) return false;
  Trellis trellis;
  int64_t others = 0;
  for (const T* end = data + spec.shape.count(); data < end; ++data) {
    const auto number = static_cast<int64_t>(*data);
    if (!trellis.holds(number)) return false;
    others += number != 0;
    trellis.step(trellis.code(number));
  }
  return others >= kNoChance;
}

// Numbers from 0 to at most 255, such as a codebook's indices.
inline bool may_be_ordered(const Spec& spec) { return spec.range.low == 0 && spec.width >= 2 && spec.width <= kOrderedBits; }

// What a part of a tensor costs when it is coded in this way, as all tensors before it have been.
template <class T>
uint64_t price(State& state, T* data, Spec spec) {
  Numbers& m = state.numbers;
  if (spec.kind == Kind::turns && !takes_turns(data, spec)) return kNever;
  if (spec.kind == Kind::ordered && !may_be_ordered(spec)) return kNever;
  if (spec.width > kIndexBits && (spec.kind == Kind::index || spec.kind == Kind::sparse_index)) return kNever;
  spec.shape.rows = priced_rows(spec);
  Counter counter;
  if (spec.kind == Kind::mixed) {
    by_magnitude<false>(counter, m, data, spec);
  } else if (spec.kind == Kind::dense) {
    by_magnitude<true>(counter, m, data, spec);
  } else if (spec.kind == Kind::turns) {
    by_turns(counter, state.some_turns(), data, spec);
  } else if (spec.kind == Kind::ordered) {
    by_order(counter, state.some_ordered(), data, spec);
  } else {
    by_index(counter, m, data, spec);
  }
  return counter.total();
}

// Zero, unless another number is more than twice as frequent; the most frequent one where indices follow.
template <class T>
int64_t centre_of(const T* data, const Spec& spec) {
  if (spec.width > kIndexBits || spec.kind == Kind::turns) return spec.range.centre;
  std::vector<int64_t> counts(size_t{1} << kIndexBits);
  const int64_t seen = std::min(spec.shape.count(), kSample);
  for (int64_t i = 0; i < seen; ++i) ++counts[static_cast<size_t>(static_cast<int64_t>(data[i]) - spec.range.low)];
  const auto most = std::max_element(counts.begin(), counts.end());
  const bool usual = spec.kind != Kind::sparse_index && *most <= 2 * counts[static_cast<size_t>(spec.range.centre - spec.range.low)];
  return usual ? spec.range.centre : spec.range.low + (most - counts.begin());
}

// The lowest number stands apart where it is more than twice as frequent as a number is on average; the pivot is the mean of
// all others.
template <class T>
void put_in_order(const T* data, Spec& spec) {
  const int64_t count = spec.shape.count(), low = spec.range.low;
  int64_t lowest = 0, sum = 0;
  for (int64_t i = 0; i < count; ++i) {
    lowest += data[i] == low;
    sum += static_cast<int64_t>(data[i]) - low;
  }
  spec.apart = lowest > 2 * count / (spec.range.high - low + 1);
  const int64_t others = spec.apart ? count - lowest : count;
  spec.range.centre = low + (others ? (sum + others / 2) / others : 0);
}

// The way that would be cheapest for all tensors together. Where a number takes over four bits, the one that is slow to
// decode must save three percent, and the slowest must save one in any case; the fastest may cost a thousandth more.
inline size_t best_way(const std::vector<std::array<uint64_t, kWays>>& prices, const lilliput_piece* pieces, size_t count) {
  std::array<uint64_t, kWays> sum{};
  uint64_t numbers = 0;
  for (size_t i = 0; i < count; ++i) {
    const Spec spec = spec_of(pieces[i]);
    if (spec.kind == Kind::patterns || spec.shape.count() == 0) continue;
    numbers += static_cast<uint64_t>(priced_rows(spec) * spec.shape.row());
    for (size_t way = 0; way < kWays; ++way) sum[way] = std::min(kNever, sum[way] + prices[i][way]);
  }
  if (sum[kMixedWay] >> 12 > 4 * numbers) sum[kMixedWay] += sum[kMixedWay] * 3 / 100;
  if (sum[kOrderedWay] < kNever) sum[kOrderedWay] += sum[kOrderedWay] / 100;
  if (sum[kIndexWay] < kNever) sum[kIndexWay] -= sum[kIndexWay] / 1000;
  return static_cast<size_t>(std::min_element(sum.begin(), sum.end()) - sum.begin());
}

inline Spec with_kind(const lilliput_piece& piece, size_t way) {
  Spec spec = spec_of(piece);
  if (spec.kind == Kind::patterns || spec.shape.count() == 0) return spec;
  spec.kind = kKinds[way];
  if (spec.kind != Kind::ordered) {
    spec.range.centre = typed(piece, [&](auto* data) { return centre_of(data, spec); });
  } else if (may_be_ordered(spec)) {
    typed(piece, [&](auto* data) { put_in_order(data, spec); });
  }
  return spec;
}

// Whether every row is one of float32 numbers that ascend, and long enough.
inline bool ascends(const lilliput_piece& piece) {
  const int64_t row = piece.kernels * piece.taps;
  if (!piece.patterns || piece.width != 4 || row < kShortestLine || row > kLongestLine) return false;
  const auto* data = static_cast<const int32_t*>(piece.data);
  for (int64_t i = 1; i < piece.rows * row; ++i) {
    if (i % row && place_of(data[i]) < place_of(data[i - 1])) return false;
  }
  return true;
}

// Lines where they save two percent of what those tensors would take alone.
inline Kind pattern_kind(State& state, const lilliput_piece& piece) {
  if (!ascends(piece)) return Kind::patterns;
  const Spec spec = spec_of(piece);
  auto* data = static_cast<int32_t*>(piece.data);
  Counter plain, lines;
  by_pattern(plain, state.some_patterns(), data, spec);
  by_line(lines, state.some_lines(), data, spec);
  return lines.total() < plain.total() - plain.total() / 50 ? Kind::lines : Kind::patterns;
}

// How each tensor is coded: all alike, so that they learn from one another, but for those that save two percent otherwise.
inline std::vector<Spec> choose(const lilliput_piece* pieces, size_t count) {
  auto worlds = std::make_unique<std::array<State, kWays>>();
  std::vector<std::array<uint64_t, kWays>> prices(count);
  for (size_t i = 0; i < count; ++i) {
    if (pieces[i].patterns || spec_of(pieces[i]).shape.count() == 0) continue;
    for (size_t way = 0; way < kWays; ++way) {
      const Spec spec = with_kind(pieces[i], way);
      prices[i][way] = typed(pieces[i], [&](auto* data) { return price((*worlds)[way], data, spec); });
    }
  }
  const size_t best = best_way(prices, pieces, count);
  std::vector<Spec> specs;
  for (size_t i = 0; i < count; ++i) {
    const auto cheapest = static_cast<size_t>(std::min_element(prices[i].begin(), prices[i].end()) - prices[i].begin());
    const bool pays = prices[i][cheapest] < prices[i][best] - prices[i][best] / 50;
    specs.push_back(with_kind(pieces[i], pays ? cheapest : best));
    if (pieces[i].patterns) specs.back().kind = pattern_kind((*worlds)[best], pieces[i]);
  }
  return specs;
}

}  // namespace lilliput
