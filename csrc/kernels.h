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
  // codes[k * steps + s]: the signs of output channel k at step s; masks: which of them are not 0 (read by ternary rows alone).
  void (*fold)(const uint16_t* codes, const uint16_t* masks, int64_t steps, void* weights);
  void (*run)(const BinaryTile& tile);
  // out[i] = dots[i] * scale (+ *bias), each rounded once.
  void (*floats)(const int16_t* dots, int64_t count, float scale, const float* bias, float* out);
  // Bit c of out[i] is x[c * stride + i] >= least[c] (0 where `least` is null), for up to eight channels.
  void (*binarize)(const float* x, int64_t stride, int channels, int64_t pixels, const float* least, uint8_t* out);
};

// A weight that is not zero, and how far from an output's flat pixel the pixels lie that it multiplies.
struct SparseWeight {
  int32_t offset;
  float value;
};

// A block of one image: out[o] = bias[o] + sum over its non-zeros of value * planes[i + offset]. Non-zeros are taken in `parts`,
// each of so few channels that what a block of pixels reads of them stays in the nearest cache.
struct SparseTile {
  const float* planes;
  int64_t parts;
  const int64_t* rows;       // [parts * outputs + 1] into the weights: part by part, output by output
  const SparseWeight* weights;
  const float* bias;         // or null
  int64_t outputs;
  int64_t first, last;       // of the outputs, those to compute
  int64_t at, registers;     // the block's first pixel, and how many registers of pixels it has
  int64_t pixels;            // of the image, flat; reads may run on to a whole register
  int64_t pitch, width;      // of a flat row, and how many of its pixels are output
  float* out;                // [outputs][plane]
  int64_t plane;
  float* sums;               // [last - first][registers], aligned, to keep between parts
};

// How an image is copied into planes, where rows lie as in the image but further apart.
struct SparseCopy {
  int64_t channels, height, width;
  int64_t lead, pitch, size;  // zeros before the first row, from a row to the next, of a plane
};

struct SparseKernel {
  int lanes;  // floats in a register
  int most;   // registers in a block, at most; 0: it takes no blocks
  // Writes up to fifteen zeros beyond a plane. Null: pixel by pixel.
  void (*fill)(const SparseCopy& copy, const float* from, float* to);
  void (*run)(const SparseTile& tile);
};

// Some output channels of one image. Pixel i of the flat output sees, at step s, the unit `planes[i + offsets[s]]`.
struct Int4Tile {
  const void* planes;
  const int32_t* offsets;
  int64_t steps;
  const int64_t* ends;    // the steps before which narrow sums are added to wide ones; the last is `steps`
  const int8_t* weights;  // [step][output][channel of a unit]
  int64_t pixels;         // flat; reads and writes may run on by `slack`
  int32_t* sums;          // out: [output][row]
  int64_t row;
};

struct Int4Kernel {
  int channels;   // bytes in a unit
  int outputs;    // of a tile
  bool narrow;    // sums are 16 bits wide between flushes
  int64_t slack;  // pixels that a tile may run on by
  void (*run)(const Int4Tile& tile);
  // out[i] = (sums[i] - less) * scale (+ *bias), each rounded once.
  void (*floats)(const int32_t* sums, int64_t count, int32_t less, float scale, const float* bias, float* out);
};

#define LILLIPUT_FAMILY_binary BinaryKernel
#define LILLIPUT_FAMILY_ternary BinaryKernel
#define LILLIPUT_FAMILY_sparse SparseKernel
#define LILLIPUT_FAMILY_int4 Int4Kernel
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
