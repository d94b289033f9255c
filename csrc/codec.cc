#include "codec.h"

#include <stdlib.h>
#include <string.h>

#include <algorithm>
#include <memory>
#include <new>

#include "choice.h"
#include "tensors.h"

namespace lilliput {

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
