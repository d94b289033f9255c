// Models of bit patterns, such as those of floating-point numbers, byte by byte from the highest; and of text.
#pragma once

#include "coder.h"

namespace lilliput {

// The first byte of a number resembles that of the number before it, the second depends on the first, and the others are
// nearly noise.
struct Patterns {
  Cell alone[8][256];
  Cell paired[2][256][256];
  Mixer<2> mixer[2][8];
  Patterns();
};

template <class IO>
uint32_t pattern_byte(IO& io, Patterns& m, int place, uint32_t context, uint32_t byte) {
  uint32_t node = 1;
  for (int i = 7; i >= 0; --i) {
    const int b = static_cast<int>(byte >> i & 1);
    if (place < 2) {
      Cell* const cells[2] = {&m.alone[place][node], &m.paired[place][context][node]};
      node = node << 1 | static_cast<uint32_t>(mixed(io, m.mixer[place][i], cells, b, 255, 16));
    } else {
      node = node << 1 | static_cast<uint32_t>(coded(io, m.alone[place][node], b, 1000));
    }
  }
  return node & 255;
}

// Text by what the one to eight bytes before have been followed by.
struct Text {
  static constexpr int kOrders = 6, kLog = 16;
  std::vector<Cell> cells;  // kOrders tables of 2^kLog
  Mixer<kOrders> mixer[256];
  Text();
};

template <class IO>
uint32_t text_byte(IO& io, Text& m, uint64_t before, uint32_t byte) {
  static constexpr int kBytes[Text::kOrders] = {0, 1, 2, 3, 5, 8};
  uint32_t base[Text::kOrders];
  for (int k = 0; k < Text::kOrders; ++k) {
    const uint64_t seen = kBytes[k] ? before & (~0ull >> (64 - 8 * kBytes[k])) : 0;
    base[k] = static_cast<uint32_t>(((seen + 1) * 0x9E3779B97F4A7C15ull) >> 32);
  }
  uint32_t node = 1;
  for (int i = 7; i >= 0; --i) {
    Cell* cells[Text::kOrders];
    for (int k = 0; k < Text::kOrders; ++k) {
      const uint32_t slot = k ? ((base[k] + node * 0x2545F491u) * 0x9E3779B1u) >> (32 - Text::kLog) : node;
      cells[k] = &m.cells[(static_cast<size_t>(k) << Text::kLog) + slot];
    }
    Cell* const fixed[Text::kOrders] = {cells[0], cells[1], cells[2], cells[3], cells[4], cells[5]};
    node = node << 1 | static_cast<uint32_t>(mixed(io, m.mixer[node], fixed, static_cast<int>(byte >> i & 1), 30, 13));
  }
  return node & 255;
}

}  // namespace lilliput
