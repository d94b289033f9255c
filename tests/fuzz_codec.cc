// Fuzz the native decoder: any bytes as any tensors are decoded within bounds or refused.
//
//     clang++ -std=c++17 -g -O1 -fsanitize=fuzzer,address,undefined -Icsrc tests/fuzz_codec.cc csrc/codec.cc csrc/tables.cc
//     g++ -DALONE -std=c++17 -g -O1 -fsanitize=address,undefined -Icsrc tests/fuzz_codec.cc csrc/codec.cc csrc/tables.cc
//
// With ALONE the program makes its own inputs: `./a.out 100000 1` (how many, from which seed; `make fuzz-native`). Half of them
// are what the encoder writes, with a few bits flipped or an end cut off, sixteen for each that is written. An eighth of what is
// decoded is encoded and decoded again, too: the encoder tries many ways, and takes ten times as long.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <algorithm>
#include <vector>

#include "codec.h"
#include "lines.h"
#include "trellis.h"

namespace {

void require(bool holds, const char* what) {
  if (holds) return;
  fprintf(stderr, "%s\n", what);
  abort();
}

int64_t number(const std::vector<uint8_t>& data, size_t at, int width) {
  int64_t value = 0;
  memcpy(&value, &data[at * static_cast<size_t>(width)], static_cast<size_t>(width));
  const int unused = 64 - 8 * width;
  return static_cast<int64_t>(static_cast<uint64_t>(value) << unused) >> unused;
}

// Eight bytes describe a tensor: its three sizes, its width, its bounds.
lilliput_piece piece_of(const uint8_t* d, std::vector<uint8_t>& room) {
  const int width = 1 << (d[3] & 3), bits = 8 * width - 1;
  const int64_t least = -(int64_t{1} << (bits - 1)) * 2, most = -(least + 1);
  lilliput_piece p{d[0] % 9, d[1] % 9, d[2] % 9, least, most, width, 0, nullptr};
  if (d[3] & 4 && width > 1) {
    p.patterns = 1;
  } else {
    p.low = least + static_cast<int64_t>((static_cast<uint64_t>(d[4] & 127) << (bits - 7)) * (d[3] >> 3 & 1));
    p.high = d[5] & 1 ? most : p.low + d[6] % 127;
    if (d[7] & 1) p.low = -(d[4] % 100), p.high = d[6] % 100;
    if ((d[7] & 2) && p.high >= 0) p.low = 0;
  }
  room.assign(static_cast<size_t>(p.rows * p.kernels * p.taps * width) + 1, 0);
  p.data = room.data();
  return p;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 16) return 0;
  std::vector<uint8_t> rooms[2];
  lilliput_piece pieces[2] = {piece_of(data, rooms[0]), piece_of(data + 8, rooms[1])};
  uint64_t ends[2];
  if (data[15] % 16 == 0) {  // the model of text takes as long to set up as sixteen tensors
    std::vector<uint8_t> text(data[1]);
    lilliput_decode_text(data + 16, size - 16, text.data(), text.size());
  }
  if (lilliput_decode(data + 16, size - 16, pieces, 2, ends) != lilliput_ok) return 0;
  for (int i = 0; i < 2; ++i) {
    for (size_t at = 0; at + 1 < rooms[i].size() / static_cast<size_t>(pieces[i].width); ++at) {
      const int64_t value = number(rooms[i], at, pieces[i].width);
      require(pieces[i].low <= value && value <= pieces[i].high, "a number out of bounds");
    }
  }
  if ((data[6] ^ data[7] ^ data[14] ^ data[15]) & 7) return 0;
  const std::vector<uint8_t> before[2] = {rooms[0], rooms[1]};
  uint8_t* out = nullptr;
  size_t made = 0;
  require(lilliput_encode(pieces, 2, &out, &made) == lilliput_ok, "what was decoded is not encoded");
  require(lilliput_decode(out, made, pieces, 2, ends) == lilliput_ok, "what was encoded is not decoded");
  lilliput_free(out);
  for (int i = 0; i < 2; ++i) require(rooms[i] == before[i], "other numbers came back");
  return 0;
}

#ifdef ALONE
namespace {

// Numbers of two quantizers that take turns, as far as bounds allow.
void take_turns(const lilliput_piece& p, int64_t count) {
  lilliput::Trellis trellis;
  for (int64_t i = 0; i < count && p.low <= 0 && p.high >= 0; ++i) {
    int64_t k = rand() % (rand() & 7 ? 5 : 300) - 2;
    if (trellis.number(k) < p.low || trellis.number(k) > p.high) k = 0;
    const int64_t value = trellis.number(k);
    memcpy(static_cast<uint8_t*>(p.data) + i * p.width, &value, static_cast<size_t>(p.width));
    trellis.step(k);
  }
}

// Numbers that ascend, evenly but for some, as the values of a codebook do; or indices of one.
void ascend(const lilliput_piece& p, int64_t count) {
  const int64_t step = int64_t{1} << rand() % 24;
  int64_t value = (rand() & 1 ? -1 : 1) * (int64_t{rand()} << rand() % 2);
  for (int64_t i = 0; i < count; ++i) {
    value = std::min<int64_t>(value + (rand() & 3 ? step : rand() % step), INT32_MAX);
    const int32_t pattern = lilliput::pattern_at(std::max<int64_t>(value, INT32_MIN));
    memcpy(static_cast<uint8_t*>(p.data) + i * p.width, &pattern, sizeof pattern);
  }
}

void indices(const lilliput_piece& p, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    const int64_t far = rand() % (1 + rand() % (1 + i % 9 * 4));
    const int64_t value = rand() % 3 ? 0 : std::clamp<int64_t>(p.high / 2 + (rand() & 1 ? far : -far), 0, p.high);
    memcpy(static_cast<uint8_t*>(p.data) + i * p.width, &value, static_cast<size_t>(p.width));
  }
}

// The bytes of two tensors of mostly small numbers, as the encoder writes them, behind what describes them.
std::vector<uint8_t> written(std::vector<uint8_t> data) {
  std::vector<uint8_t> rooms[2];
  lilliput_piece pieces[2] = {piece_of(data.data(), rooms[0]), piece_of(data.data() + 8, rooms[1])};
  for (auto& p : pieces) {
    const int64_t count = p.rows * p.kernels * p.taps;
    const uint64_t span = static_cast<uint64_t>(p.high) - static_cast<uint64_t>(p.low);
    for (int64_t i = 0; i < count; ++i) {
      const uint64_t above = static_cast<uint64_t>(rand()) % (rand() & 3 ? 3 : 4096);
      const uint64_t value = static_cast<uint64_t>(p.low) + (span ? above % span : 0);
      memcpy(static_cast<uint8_t*>(p.data) + i * p.width, &value, static_cast<size_t>(p.width));
    }
    if (rand() % 4 == 0 && !p.patterns) take_turns(p, count);
    if (rand() % 2 == 0 && p.patterns && p.width == 4) ascend(p, count);
    if (rand() % 2 == 0 && p.low == 0 && p.high > 0) indices(p, count);
  }
  uint8_t* out = nullptr;
  size_t made = 0;
  require(lilliput_encode(pieces, 2, &out, &made) == lilliput_ok, "good numbers are not encoded");
  data.insert(data.begin() + 16, out, out + made);
  data.resize(16 + made);
  lilliput_free(out);
  return data;
}

// The same with a few bits flipped, or an end cut off, or neither.
std::vector<uint8_t> damaged(std::vector<uint8_t> data) {
  const size_t made = data.size() - 16;
  for (int flips = rand() % 4; flips > 0 && made > 0; --flips) data[16 + rand() % made] ^= static_cast<uint8_t>(1 << rand() % 8);
  if (rand() % 4 == 0) data.resize(16 + rand() % (made + 1));
  return data;
}

}  // namespace

int main(int argc, char** argv) {
  srand(argc > 2 ? static_cast<unsigned>(atol(argv[2])) : 1);
  const long inputs = argc > 1 ? atol(argv[1]) : 10000;
  std::vector<uint8_t> good;
  for (long i = 0; i < inputs; ++i) {
    std::vector<uint8_t> data(80);
    for (auto& byte : data) byte = static_cast<uint8_t>(rand() >> 7);
    const int fewer = rand() % 64;  // short inputs fit small tensors
    if (rand() & 1) data[0] %= 3, data[1] %= 3, data[2] %= 3, data[8] = 0;
    if (i % 32 == 0) good = written(data);
    if (rand() & 1) {
      data = damaged(good);
    } else {
      data.resize(data.size() - static_cast<size_t>(fewer));
    }
    LLVMFuzzerTestOneInput(data.data(), data.size());
  }
  printf("%ld inputs, nothing found\n", inputs);
  return 0;
}
#endif
