// Adaptive binary range coding: whole-number arithmetic only, so that every machine writes the same bytes.
//
// A bit is coded with its probability p of being one, in 2^-16. The encoder keeps an interval of 64 bits [low, low + range)
// and halves it in the proportion p; 32 bits leave at the top whenever the interval gets narrower than 2^32. The decoder
// keeps what it has read less low. It reads exactly the bytes that were written: four for each step and four at the end.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include <vector>

#if defined(__GNUC__) || defined(__clang__)
#define LILLIPUT_RARE __attribute__((noinline, cold))
#else
#define LILLIPUT_RARE
#endif

namespace lilliput {

constexpr uint32_t kOne = 1u << 16;      // a probability of one
constexpr uint32_t kLeast = 1u << 5;     // no bit is less probable
constexpr uint64_t kNarrow = 1ull << 32; // below this the interval is widened

// What is computed once: rates of adaptation, the logistic function and its inverse, and costs.
struct Tables {
  uint32_t rate[1024];    // 2^16 / (n + 1.5)
  int16_t stretch[4096];  // ln(p / (1 - p)) in 1/256, for p in 2^-12
  uint16_t squash[4096];  // the probability in 2^-16 that belongs to (i - 2048)/256
  uint16_t cost[4096];    // -log2 of a probability in 2^-12, in 2^-12 bits
  Tables();
};
extern const Tables kTables;

// A probability that learns: 22 bits of it, and 10 bits that count how often it has, up to a limit.
using Cell = uint32_t;

constexpr Cell cell(uint32_t p16, uint32_t count) { return p16 << 16 | count; }

inline uint32_t chance(Cell c) {
  const uint32_t p = c >> 16;
  return p < kLeast ? kLeast : p > kOne - kLeast ? kOne - kLeast : p;
}

inline void learn(Cell& c, int bit, uint32_t limit) {
  const uint32_t n = c & 1023;
  const int64_t p = c >> 10, goal = -static_cast<int64_t>(bit) & ((1 << 22) - 1);
  const int64_t moved = p + (((goal - p) * static_cast<int64_t>(kTables.rate[n])) >> 16);
  c = static_cast<uint32_t>(moved) << 10 | (n < limit ? n + 1 : n);
}

inline uint32_t big_endian(const uint8_t* data) {
  return static_cast<uint32_t>(data[0]) << 24 | static_cast<uint32_t>(data[1]) << 16 | static_cast<uint32_t>(data[2]) << 8 | data[3];
}

class Encoder {
 public:
  static constexpr bool decodes = false, learns = true;
  explicit Encoder(std::vector<uint8_t>& out) : out_(out) {}

  int bit(uint32_t p, int b) {
    const uint64_t bound = (range_ >> 16) * p;
    if (b) {
      range_ = bound;
    } else {
      low_ += bound;
      if (low_ < bound) carry();
      range_ -= bound;
    }
    if (range_ < kNarrow) {
      put();
      range_ <<= 32;
    }
    return b;
  }

  int even_bit(uint32_t p, int b) { return bit(p, b); }

  void finish() {
    const uint64_t rounded = (low_ + (kNarrow - 1)) & ~(kNarrow - 1);
    if (rounded < low_) carry();
    low_ = rounded;
    put();
  }

  size_t position() const { return out_.size(); }

 private:
  void carry() {
    size_t at = out_.size();
    while (at > 0 && ++out_[--at] == 0) {
    }
  }
  void put() {
    for (int shift = 56; shift >= 32; shift -= 8) out_.push_back(static_cast<uint8_t>(low_ >> shift));
    low_ <<= 32;
  }

  std::vector<uint8_t>& out_;
  uint64_t low_ = 0, range_ = ~0ull;
};

class Decoder {
 public:
  static constexpr bool decodes = true, learns = true;
  Decoder(const uint8_t* data, size_t size) : data_(data), size_(size) {
    code_ = static_cast<uint64_t>(word()) << 32;
    code_ |= word();
  }

  // A bit that is mostly foreseen: the processor goes on with what it expects.
  int bit(uint32_t p, int) {
    const uint64_t bound = (range_ >> 16) * p;
    const bool b = code_ < bound;
    range_ = b ? bound : range_ - bound;
    code_ -= b ? 0 : bound;
    refill();
    return b;
  }

  // The same for a bit that cannot be foreseen: masks, where a compiler would make branches.
  int even_bit(uint32_t p, int) {
    const uint64_t bound = (range_ >> 16) * p, above = range_ - bound;
    const uint64_t below = 0 - static_cast<uint64_t>(code_ < bound);
    range_ = above ^ ((above ^ bound) & below);
    code_ -= bound & ~below;
    refill();
    return static_cast<int>(below & 1);
  }

  // Bytes read, less the four that the end does not need; more than there are once bytes were missing.
  size_t position() const { return at_ - 4; }
  bool missing() const { return at_ > size_ + 4; }

 private:
  void refill() {
    if (range_ < kNarrow) {
      code_ = code_ << 32 | word();
      range_ <<= 32;
    }
  }

  uint32_t word() {
    const size_t at = at_;
    at_ = at + 4;
    return at + 4 <= size_ ? big_endian(data_ + at) : past_end(at);
  }

  LILLIPUT_RARE uint32_t past_end(size_t at) const {
    uint32_t value = 0;
    for (size_t i = 0; i < 4; ++i) value = value << 8 | (at + i < size_ ? data_[at + i] : 0u);
    return value;
  }

  const uint8_t* data_;
  size_t size_, at_ = 0;
  uint64_t range_ = ~0ull, code_ = 0;
};

// Adds up what coding would cost, in 2^-12 bits.
class Counter {
 public:
  static constexpr bool decodes = false, learns = true;
  int bit(uint32_t p, int b) {
    total_ += kTables.cost[(b ? p : kOne - p) >> 4];
    return b;
  }
  int even_bit(uint32_t p, int b) { return bit(p, b); }
  uint64_t total() const { return total_; }

 private:
  uint64_t total_ = 0;
};

// The same without leaving a trace in any cell: what coding a number would cost.
class Quote : public Counter {
 public:
  static constexpr bool learns = false;
};

// One bit by one cell.
template <class IO>
inline int coded(IO& io, Cell& c, int b, uint32_t limit) {
  b = io.bit(chance(c), b);
  if constexpr (IO::learns) learn(c, b, limit);
  return b;
}

// The same for a bit that cannot be foreseen.
template <class IO>
inline int coded_evenly(IO& io, Cell& c, int b, uint32_t limit) {
  b = io.even_bit(chance(c), b);
  if constexpr (IO::learns) learn(c, b, limit);
  return b;
}

// n bits of a number, the highest first, each by a cell of its own for all the bits before it; returns them behind a leading one.
// Both cells that may come next, and their chances, are there before it is known which one does: a decoder would wait for it.
template <class IO>
inline uint64_t by_tree(IO& io, Cell* tree, uint64_t value, int n, uint32_t limit) {
  if (n == 0) return 1;
  uint64_t found = 1;
  Cell now = tree[1];
  uint32_t p = chance(now);
  for (int i = n - 1; i > 0; --i) {
    const Cell zero = tree[2 * found], one = tree[2 * found + 1];
    const uint32_t if_zero = chance(zero), if_one = chance(one);
    const int b = io.even_bit(p, static_cast<int>(value >> i & 1));
    const uint32_t taken = 0u - static_cast<uint32_t>(b);
    p = if_zero ^ ((if_zero ^ if_one) & taken);
    if constexpr (IO::learns) learn(now, b, limit);
    tree[found] = now;
    now = zero ^ ((zero ^ one) & taken);
    found = found << 1 | static_cast<uint64_t>(b);
  }
  const int b = io.even_bit(p, static_cast<int>(value & 1));
  if constexpr (IO::learns) learn(now, b, limit);
  tree[found] = now;
  return found << 1 | static_cast<uint64_t>(b);
}

// One bit by several cells whose opinions are weighted: p = squash(sum of w·stretch(p_i)). The weights follow the error.
constexpr int32_t kHeaviest = 1 << 20;

template <int N>
struct Mixer {
  int32_t weight[N];
};

template <class IO, int N>
inline int mixed(IO& io, Mixer<N>& mixer, Cell* const (&cells)[N], int b, uint32_t limit, int slow) {
  int32_t opinion[N], dot = 0;
  for (int i = 0; i < N; ++i) {
    opinion[i] = kTables.stretch[*cells[i] >> 20];
    dot += opinion[i] * (mixer.weight[i] >> 2) >> 14;
  }
  dot = dot < -2047 ? -2047 : dot > 2047 ? 2047 : dot;
  const uint32_t p = kTables.squash[dot + 2048];
  b = io.bit(p, b);
  if constexpr (!IO::learns) return b;
  const int32_t error = (b ? 65535 : 0) - static_cast<int32_t>(p);
  for (int i = 0; i < N; ++i) {
    const int32_t w = mixer.weight[i] + ((opinion[i] * error + (1 << (slow - 1))) >> slow);
    mixer.weight[i] = w < -kHeaviest ? -kHeaviest : w > kHeaviest ? kHeaviest : w;
    learn(*cells[i], b, limit);
  }
  return b;
}

// A whole number of n bits, none of which says anything about another.
template <class IO>
inline uint64_t plain_bits(IO& io, uint64_t value, int n) {
  uint64_t found = 0;
  for (int i = n - 1; i >= 0; --i) found = found << 1 | static_cast<uint64_t>(io.bit(kOne / 2, value >> i & 1));
  return found;
}

}  // namespace lilliput
