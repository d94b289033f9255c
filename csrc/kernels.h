// What a kernel is told, and what it offers. Files for one instruction set see plain pointers and numbers alone: they must not
// instantiate anything that the linker could also pick for code which runs everywhere.
#pragma once

#include <stdint.h>

#include "cpu.h"

namespace lilliput {

// No table of a tile has more entries in a row: there is one for each way a window can hang over the image's edge.
constexpr int kClasses = 64;

// Eight output channels of one image. Pixel i of the flat output sees, at step s, the unit `planes[i + offsets[s]]`.
struct BinaryTile {
  const void* planes;
  const int32_t* offsets;
  int64_t steps;
  const void* weights;       // of these eight channels, as `fold` wrote them
  int64_t pixels;            // flat; reads and writes may run on by `slack`
  const uint8_t* classes;    // of every flat pixel
  const int16_t* table;      // [8][kClasses]: largest number of mismatches for a 1 (bits), or dot + 2 mismatches (dots)
  uint8_t* bits;             // out, or null: one byte a flat pixel
  uint8_t flip;              // these bits the other way round
  int16_t* dots;             // out, or null: [8][row]
  int64_t row;
};

struct BinaryKernel {
  int channels;       // signs in a unit
  int bytes;          // of a unit
  int multiple;       // steps are filled up to a multiple of this with steps that count nothing
  int64_t slack;      // pixels that a tile may run on by
  int64_t fold_bytes; // of eight channels' weights, for each step
  // codes[k * steps + s]: the signs of output channel k at step s.
  void (*fold)(const uint16_t* codes, int64_t steps, void* weights);
  void (*run)(const BinaryTile& tile);
  // out[i] = dots[i] * scale (+ *bias), each rounded once.
  void (*floats)(const int16_t* dots, int64_t count, float scale, const float* bias, float* out);
  // Bit c of out[i] is x[c * stride + i] >= least[c] (0 where `least` is null), for up to eight channels.
  void (*binarize)(const float* x, int64_t stride, int channels, int64_t pixels, const float* least, uint8_t* out);
};

// All outputs of one image: out[o] = bias[o] + sum over its non-zeros of value * planes[i + offset]. Non-zeros are taken in
// `parts`, each of so few channels that what a block of pixels reads of them stays in the nearest cache.
struct SparseTile {
  const float* planes;
  int64_t parts;
  const int64_t* rows;       // [parts * outputs + 1] into the two below: part by part, output by output
  const int32_t* offsets;
  const float* values;
  const float* bias;         // or null
  int64_t outputs;
  int64_t pixels;            // flat; nothing is read or written beyond them
  int64_t pitch, width;      // of a flat row, and how many of its pixels are output
  float* out;                // [outputs][plane]
  int64_t plane;
  float* sums;               // [outputs][kBlock], aligned, to keep between parts
};

constexpr int64_t kBlock = 128;  // no block has more pixels

struct SparseKernel {
  void (*run)(const SparseTile& tile);
};

#define LILLIPUT_FAMILY_binary BinaryKernel
#define LILLIPUT_FAMILY_sparse SparseKernel
#define LILLIPUT_KERNEL(family, name, needs) extern const LILLIPUT_FAMILY_##family family##_##name;
#include "kernels.inc"
#undef LILLIPUT_KERNEL

struct Row {
  const char* family;
  const char* name;
  uint32_t needs;
  const void* kernel;
};

// The row of this family and name; the best that runs here where `name` is null and $LILLIPUT_KERNEL is not set.
// Answers with a `lilliput_layer_status`.
int choose(const char* family, const char* name, const Row** row);

}  // namespace lilliput
