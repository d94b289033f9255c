#include "codec.h"

#include <stdlib.h>
#include <string.h>

#include <algorithm>
#include <array>
#include <memory>
#include <new>

#include "tensors.h"

namespace lilliput {

int bit_length(uint64_t x) {
#if defined(__GNUC__) || defined(__clang__)
  return x ? 64 - __builtin_clzll(x) : 0;
#else
  int n = 0;
  for (; x; x >>= 1) ++n;
  return n;
#endif
}

namespace {

template <class T>
void fill(T& cells, uint32_t count) {
  Cell* first = reinterpret_cast<Cell*>(&cells);
  std::fill(first, first + sizeof(T) / sizeof(Cell), cell(kOne / 2, count));
}

template <int N, size_t M>
void balance(Mixer<N> (&mixers)[M], int32_t weight) {
  for (auto& mixer : mixers) std::fill(mixer.weight, mixer.weight + N, weight);
}

}  // namespace

Numbers::Numbers() {
  fill(near, 0);
  fill(kernel, 0);
  fill(row, 0);
  fill(alone, 0);
  balance(mixer, 5 << 12);
  fill(sign, 2);
  fill(length, 0);
  fill(mantissa, 2);
  fill(low_bits, 2);
  fill(index, 2);
}

Turns::Turns() {
  fill(near, 0);
  fill(wide, 0);
  fill(kernel, 0);
  fill(row, 0);
  fill(both, 0);
  fill(tap, 0);
  fill(pair, 0);
  fill(alone, 0);
  balance(mixer, 12 << 10);
  fill(around, 2);
  fill(beside, 2);
  fill(sign, 2);
  std::fill(sign_mixer.weight, sign_mixer.weight + 3, 1 << 14);
  fill(mantissa, 2);
  fill(low_bits, 2);
}

Patterns::Patterns() {
  fill(alone, 6);
  fill(paired, 0);
  for (auto& each : mixer) balance(each, 1 << 15);
}

Ordered::Ordered() {
  fill(near, 0);
  fill(kernel, 0);
  fill(row, 0);
  fill(inner, 0);
  fill(both, 0);
  fill(alone, 0);
  balance(apart, 13 << 10);
  fill(around, 2);
  fill(side, 2);
  std::fill(side_mixer.weight, side_mixer.weight + 2, 1 << 15);
  next_tensor();
  fill(shared, 1);
  fill(within, 1);
  fill(about, 1);
  for (auto& each : tree) balance(each, 1 << 14);
}

void Ordered::next_tensor() { fill(own, 0); }

Lines::Lines() {
  fill(on, 0);
  fill(off, 0);
  fill(side, 0);
  fill(mean, 0);
  fill(after, 0);
  fill(alone, 0);
  fill(top, 4);
  balance(mixer, 20 << 10);
}

Text::Text() : cells(static_cast<size_t>(kOrders) << kLog, cell(kOne / 2, 0)) { balance(mixer, 1 << 14); }

namespace {

constexpr int64_t kSample = 1 << 13;  // numbers that decide how a tensor is coded

constexpr Kind kKinds[] = {Kind::dense, Kind::mixed, Kind::index, Kind::sparse_index, Kind::turns, Kind::ordered};
constexpr size_t kWays = sizeof(kKinds) / sizeof(Kind), kMixedWay = 1, kOrderedWay = 5;
constexpr uint64_t kNever = 1ull << 62;
constexpr int64_t kShortestLine = 8;
constexpr int64_t kNoChance = 40;  // so many numbers that are not zero have been chosen to take turns

int64_t priced_rows(const Spec& spec) {
  const int64_t part = std::max(kSample, spec.shape.count() / 8);
  return std::min(spec.shape.rows, std::max<int64_t>(1, part / spec.shape.row()));
}

bool may_take_turns(const Spec& spec, size_t bytes) {
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
bool may_be_ordered(const Spec& spec) { return spec.range.low == 0 && spec.width >= 2 && spec.width <= kOrderedBits; }

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
// decode must save three percent, and the slowest must save one in any case.
size_t best_way(const std::vector<std::array<uint64_t, kWays>>& prices, const lilliput_piece* pieces, size_t count) {
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
  return static_cast<size_t>(std::min_element(sum.begin(), sum.end()) - sum.begin());
}

Spec with_kind(const lilliput_piece& piece, size_t way) {
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
bool ascends(const lilliput_piece& piece) {
  const int64_t row = piece.kernels * piece.taps;
  if (!piece.patterns || piece.width != 4 || row < kShortestLine || row > kLongestLine) return false;
  const auto* data = static_cast<const int32_t*>(piece.data);
  for (int64_t i = 1; i < piece.rows * row; ++i) {
    if (i % row && place_of(data[i]) < place_of(data[i - 1])) return false;
  }
  return true;
}

// Lines where they save two percent of what those tensors would take alone.
Kind pattern_kind(State& state, const lilliput_piece& piece) {
  if (!ascends(piece)) return Kind::patterns;
  const Spec spec = spec_of(piece);
  auto* data = static_cast<int32_t*>(piece.data);
  Counter plain, lines;
  by_pattern(plain, state.some_patterns(), data, spec);
  by_line(lines, state.some_lines(), data, spec);
  return lines.total() < plain.total() - plain.total() / 50 ? Kind::lines : Kind::patterns;
}

// How each tensor is coded: all alike, so that they learn from one another, but for those that save two percent otherwise.
std::vector<Spec> choose(const lilliput_piece* pieces, size_t count) {
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

void put_spec(Encoder& io, const Spec& spec, int64_t usual) {
  plain_bits(io, static_cast<uint64_t>(spec.kind), kKindBits);
  if (spec.kind == Kind::patterns || spec.kind == Kind::lines) return;
  const bool moved = spec.range.centre != usual;
  plain_bits(io, moved, 1);
  if (moved) plain_bits(io, static_cast<uint64_t>(spec.range.centre) - static_cast<uint64_t>(spec.range.low), spec.width);
  if (spec.kind == Kind::ordered) plain_bits(io, spec.apart, 1);
}

bool get_spec(Decoder& io, Spec& spec, size_t bytes) {
  const bool patterns = spec.kind == Kind::patterns;
  spec.kind = static_cast<Kind>(plain_bits(io, 0, kKindBits));
  if ((spec.kind == Kind::patterns || spec.kind == Kind::lines) != patterns) return false;
  if (spec.kind == Kind::lines) return bytes == 4 && spec.shape.row() <= kLongestLine;
  if (patterns) return true;
  if (plain_bits(io, 0, 1)) {
    const uint64_t above = plain_bits(io, 0, spec.width);
    if (above > static_cast<uint64_t>(spec.range.high) - static_cast<uint64_t>(spec.range.low)) return false;
    spec.range.centre = static_cast<int64_t>(static_cast<uint64_t>(spec.range.low) + above);
  }
  if (spec.kind == Kind::ordered) {
    spec.apart = plain_bits(io, 0, 1) != 0;
    return spec.width <= kOrderedBits;
  }
  if (spec.kind == Kind::turns) return may_take_turns(spec, bytes) && spec.range.centre == 0;
  const bool indexed = spec.kind == Kind::index || spec.kind == Kind::sparse_index;
  return !indexed || spec.width <= kIndexBits;
}

bool fits(const lilliput_piece& p) {
  if (p.rows < 0 || p.kernels < 0 || p.taps < 0 || p.low > p.high) return false;
  if (p.width != 1 && p.width != 2 && p.width != 4 && p.width != 8) return false;
  const int64_t most = int64_t{1} << 62;
  if (p.kernels && p.taps > most / p.kernels) return false;
  const int64_t row = p.kernels * p.taps;
  return !row || p.rows <= most / row;
}

int64_t total(const lilliput_piece* pieces, size_t count) {
  int64_t sum = 0;
  for (size_t i = 0; i < count; ++i) {
    if (!fits(pieces[i])) return -1;
    const int64_t more = pieces[i].rows * pieces[i].kernels * pieces[i].taps;
    if (more > (int64_t{1} << 62) - sum) return -1;
    sum += more;
  }
  return sum;
}

size_t least_bytes(int64_t numbers) {
  return static_cast<size_t>((numbers + lilliput_numbers_per_byte - 1) / lilliput_numbers_per_byte);
}

int give(const std::vector<uint8_t>& bytes, uint8_t** out, size_t* size) {
  *out = static_cast<uint8_t*>(malloc(bytes.empty() ? 1 : bytes.size()));
  if (*out == nullptr) return lilliput_out_of_memory;
  if (!bytes.empty()) memcpy(*out, bytes.data(), bytes.size());
  *size = bytes.size();
  return lilliput_ok;
}

int encode(const lilliput_piece* pieces, size_t count, uint8_t** out, size_t* size) {
  const int64_t numbers = total(pieces, count);
  if (numbers < 0) return lilliput_bad_piece;
  std::vector<uint8_t> bytes;
  const std::vector<Spec> specs = choose(pieces, count);
  auto state = std::make_unique<State>();
  Encoder io(bytes);
  for (size_t i = 0; i < count; ++i) {
    const Spec usual = spec_of(pieces[i]);
    if (usual.shape.count() == 0) continue;
    put_spec(io, specs[i], usual.range.centre);
    typed(pieces[i], [&](auto* data) { return body(io, *state, data, specs[i]); });
  }
  io.finish();
  if (bytes.size() < least_bytes(numbers)) bytes.resize(least_bytes(numbers));
  return give(bytes, out, size);
}

int all_read(const uint8_t* bytes, size_t size, size_t position, size_t least) {
  if (position > size) return lilliput_too_few_bytes;
  if (position < size && size != least) return lilliput_too_many_bytes;
  const bool rest = std::any_of(bytes + position, bytes + size, [](uint8_t b) { return b != 0; });
  return rest ? lilliput_too_many_bytes : lilliput_ok;
}

int decode(const uint8_t* bytes, size_t size, const lilliput_piece* pieces, size_t count, uint64_t* ends) {
  const int64_t numbers = total(pieces, count);
  if (numbers < 0) return lilliput_bad_piece;
  if (size < least_bytes(numbers) || size < 4) return lilliput_too_few_bytes;
  auto state = std::make_unique<State>();
  Decoder io(bytes, size);
  for (size_t i = 0; i < count; ++i) {
    Spec spec = spec_of(pieces[i]);
    if (spec.shape.count() > 0) {
      if (!get_spec(io, spec, static_cast<size_t>(pieces[i].width))) return io.missing() ? lilliput_too_few_bytes : lilliput_bad_kind;
      const bool good = typed(pieces[i], [&](auto* data) { return body(io, *state, data, spec); });
      if (io.missing()) return lilliput_too_few_bytes;
      if (!good) return lilliput_out_of_bounds;
    }
    if (ends) ends[i] = std::min<uint64_t>(io.position(), size);
  }
  return all_read(bytes, size, io.position(), least_bytes(numbers));
}

int encode_text(const uint8_t* text, size_t length, uint8_t** out, size_t* size) {
  std::vector<uint8_t> bytes;
  Text model;
  Encoder io(bytes);
  uint64_t before = 0;
  for (size_t i = 0; i < length; ++i) {
    text_byte(io, model, before, text[i]);
    before = before << 8 | text[i];
  }
  io.finish();
  return give(bytes, out, size);
}

int decode_text(const uint8_t* bytes, size_t size, uint8_t* text, size_t length) {
  if (size < 4) return lilliput_too_few_bytes;
  Text model;
  Decoder io(bytes, size);
  uint64_t before = 0;
  for (size_t i = 0; i < length; ++i) {
    text[i] = static_cast<uint8_t>(text_byte(io, model, before, 0));
    if (io.missing()) return lilliput_too_few_bytes;
    before = before << 8 | text[i];
  }
  return all_read(bytes, size, io.position(), 0);
}

template <class F>
int guarded(F call) {
  try {
    return call();
  } catch (const std::bad_alloc&) {
    return lilliput_out_of_memory;
  }
}

}  // namespace
}  // namespace lilliput

using namespace lilliput;

extern "C" int lilliput_encode(const lilliput_piece* pieces, size_t count, uint8_t** out, size_t* size) {
  return guarded([&] { return encode(pieces, count, out, size); });
}

extern "C" int lilliput_decode(const uint8_t* bytes, size_t size, const lilliput_piece* pieces, size_t count, uint64_t* ends) {
  return guarded([&] { return decode(bytes, size, pieces, count, ends); });
}

extern "C" int lilliput_encode_text(const uint8_t* text, size_t length, uint8_t** out, size_t* size) {
  return guarded([&] { return encode_text(text, length, out, size); });
}

extern "C" int lilliput_decode_text(const uint8_t* bytes, size_t size, uint8_t* text, size_t length) {
  return guarded([&] { return decode_text(bytes, size, text, length); });
}

extern "C" void lilliput_free(uint8_t* bytes) { free(bytes); }
