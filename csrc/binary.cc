#include "binary.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <vector>

#include "kernels.h"
#include "layer.h"
#include "memory.h"
#include "planes.h"
#include "pool.h"
#include "reference.h"

namespace lilliput {
namespace {

constexpr int64_t kMostProducts = 32767;  // the dot product of an output fits 16 bits

int ones(unsigned byte) {
  int count = 0;
  for (; byte != 0; byte &= byte - 1) ++count;
  return count;
}

template <class T>
std::vector<T> copied(const T* from, int64_t count) {
  return from == nullptr ? std::vector<T>() : std::vector<T>(from, from + count);
}

template <class T>
const T* or_null(const std::vector<T>& v) { return v.empty() ? nullptr : v.data(); }

}  // namespace
}  // namespace lilliput

using namespace lilliput;

// What was asked for, and what the tiles of a vector kernel need.
struct lilliput_binary {
  lilliput_binary(const lilliput_binary_layer& given, const Row& chosen)
      : layer(given),
        row(chosen),
        planes(given.conv),
        weight(copied(given.weight, given.conv.out * bytes() * planes.taps())),
        scale(copied(given.scale, given.conv.out)),
        bias(copied(given.bias, given.conv.out)),
        least(copied(given.least, given.conv.out)),
        flip(copied(given.flip, given.conv.out)),
        mask(copied(given.mask, given.conv.out * bytes() * planes.taps())) {
    layer.weight = weight.data();
    layer.scale = or_null(scale);
    layer.bias = or_null(bias);
    layer.least = or_null(least);
    layer.flip = or_null(flip);
    layer.mask = or_null(mask);
    if (tiled()) prepare();
  }

  static int sound(const lilliput_binary_layer& given) {
    if (given.pad < -1 || given.pad > 1) return lilliput_layer_bad_shape;
    return (given.scale == nullptr) == (given.least == nullptr) ? lilliput_layer_bad_weights : lilliput_layer_ok;
  }

  static bool covers(const lilliput_binary_layer& given) {
    const lilliput_conv& c = given.conv;
    const Edges down(c, 0), across(c, 1);
    const bool few = given.pad != 0 || down.outside.size() * across.outside.size() <= static_cast<size_t>(kClasses);
    return few && static_cast<int64_t>(c.in / c.groups) * c.kernel[0] * c.kernel[1] <= kMostProducts;
  }

  const BinaryKernel& kernel() const { return *static_cast<const BinaryKernel*>(row.kernel); }
  bool tiled() const { return kernel().run != nullptr; }
  int64_t inputs() const { return layer.conv.in / layer.conv.groups; }    // of a group
  int64_t outputs() const { return layer.conv.out / layer.conv.groups; }  // of a group
  int64_t bytes() const { return (inputs() + 7) / 8; }                    // of a group's signs
  int64_t units() const { return Planes::up(inputs(), kernel().channels); }
  int64_t blocks() const { return Planes::up(outputs(), 8); }
  int64_t steps() const { return Planes::up(units() * planes.taps(), kernel().multiple) * kernel().multiple; }
  int64_t room() const { return planes.pixels + kernel().slack; }  // a flat output, and what a tile runs on by

  void prepare() {
    prepare_offsets();
    prepare_weights();
    prepare_tables();
  }

  void prepare_offsets() {
    // Steps that fill up read the zeros after the last plane.
    offsets.assign(static_cast<size_t>(steps()), static_cast<int32_t>(units() * planes.size));
    size_t s = 0;
    for (int64_t u = 0; u < units(); ++u) {
      for (int64_t ky = 0; ky < layer.conv.kernel[0]; ++ky) {
        for (int64_t kx = 0; kx < layer.conv.kernel[1]; ++kx) {
          offsets[s++] = static_cast<int32_t>(u * planes.size + planes.tap(ky, kx));
        }
      }
    }
  }

  // The bits of output channel o at unit u and tap t.
  uint16_t code(const std::vector<uint8_t>& of, int64_t o, int64_t u, int64_t t) const {
    unsigned bits = 0;
    for (int64_t b = 0; b < kernel().channels; ++b) {
      const int64_t c = u * kernel().channels + b;
      if (c < inputs()) bits |= ((of[static_cast<size_t>((o * bytes() + c / 8) * planes.taps() + t)] >> (c % 8)) & 1u) << b;
    }
    return static_cast<uint16_t>(bits);
  }

  void prepare_weights() {
    block_bytes = Planes::up(kernel().fold_bytes * steps(), 64) * 64;
    folded = std::make_unique<Aligned>(static_cast<size_t>(layer.conv.groups * blocks() * block_bytes));
    std::vector<uint16_t> codes(static_cast<size_t>(8 * steps())), masks(codes.size());
    for (int64_t i = 0; i < layer.conv.groups * blocks(); ++i) {
      const int64_t block = i % blocks(), first = i / blocks() * outputs() + 8 * block;
      const int64_t count = std::min<int64_t>(8, outputs() - 8 * block);
      std::fill(codes.begin(), codes.end(), static_cast<uint16_t>(0));
      std::fill(masks.begin(), masks.end(), static_cast<uint16_t>(0));
      for (int64_t k = 0; k < count; ++k) {
        for (int64_t s = 0; s < units() * planes.taps(); ++s) {
          const size_t at = static_cast<size_t>(k * steps() + s);
          codes[at] = code(weight, first + k, s / planes.taps(), s % planes.taps());
          if (!mask.empty()) masks[at] = code(mask, first + k, s / planes.taps(), s % planes.taps());
        }
      }
      kernel().fold(codes.data(), masks.data(), steps(), folded->as<uint8_t>() + i * block_bytes);
    }
  }

  // With zeros outside the image, an output counts mismatches at taps that hang over the edge (planes hold -1 there).
  // Its dot product is N - n + 2w - 2m: N products (by weights that are not 0), n of them outside, w the +1 weights among
  // those, m mismatches.
  void prepare_tables() {
    const lilliput_conv& c = layer.conv;
    const Edges down(c, 0), across(c, 1);
    const bool zeros = layer.pad == 0;
    const int64_t columns = zeros ? static_cast<int64_t>(across.outside.size()) : 1;
    const int64_t kinds = zeros ? static_cast<int64_t>(down.outside.size()) * columns : 1;
    classes.assign(static_cast<size_t>(room()), 0);
    for (int64_t i = 0; zeros && i < planes.pixels; ++i) {
      const int64_t x = std::min(i % planes.pitch, planes.out_width - 1);
      classes[static_cast<size_t>(i)] =
          static_cast<uint8_t>(down.of[static_cast<size_t>(i / planes.pitch)] * columns + across.of[static_cast<size_t>(x)]);
    }
    table.assign(static_cast<size_t>(c.groups * blocks() * 8 * kClasses), -1);  // no bit where there is no channel
    for (int64_t o = 0; o < c.out; ++o) {
      const Weights of = weights(o);
      int16_t* entry = table.data() + ((o / outputs() * blocks()) * 8 + o % outputs()) * kClasses;
      for (int64_t kind = 0; kind < kinds; ++kind) {
        int64_t most = of.all;
        for (int64_t t = 0; zeros && t < planes.taps(); ++t) {
          const bool out = down.outside[static_cast<size_t>(kind / columns)][static_cast<size_t>(t / c.kernel[1])] ||
                           across.outside[static_cast<size_t>(kind % columns)][static_cast<size_t>(t % c.kernel[1])];
          if (out) most += 2 * of.positive[static_cast<size_t>(t)] - of.some[static_cast<size_t>(t)];
        }
        entry[kind] = static_cast<int16_t>(layer.least == nullptr ? most : threshold(most, layer.least[o]));
      }
    }
  }

  // Of an output channel: how many weights are not 0 (also at every tap), and how many of these are +1.
  struct Weights {
    int64_t all = 0;
    std::vector<int64_t> some, positive;
  };

  Weights weights(int64_t o) const {
    Weights found;
    found.some.resize(static_cast<size_t>(planes.taps()));
    found.positive.resize(found.some.size());
    for (size_t t = 0; t < found.some.size(); ++t) {
      for (int64_t c = 0; c < inputs(); c += 8) {
        const size_t at = static_cast<size_t>(o * bytes() + c / 8) * found.some.size() + t;
        const unsigned valid = ((1u << std::min<int64_t>(8, inputs() - c)) - 1) & (mask.empty() ? 255u : mask[at]);
        found.some[t] += ones(valid);
        found.positive[t] += ones(weight[at] & valid);
      }
      found.all += found.some[t];
    }
    return found;
  }

  // most - 2m >= least exactly where m <= this.
  static int64_t threshold(int64_t most, int64_t least) {
    const int64_t room = most - least;
    return room < 0 ? -1 : std::min<int64_t>(room / 2, kMostProducts);
  }

  // Unit u of a group: the signs of its channels, pixel by pixel.
  template <class Unit>
  void spread(const uint8_t* x, int64_t group, int64_t u, Unit* to) const {
    const lilliput_conv& c = layer.conv;
    const int64_t image = static_cast<int64_t>(c.height) * c.width, per = kernel().channels;
    const int64_t first = group * inputs() + u * per, count = std::min<int64_t>(per, inputs() - u * per);
    const unsigned valid = (1u << count) - 1;
    std::fill_n(to, planes.size, static_cast<Unit>(layer.pad > 0 ? valid : 0));
    // A unit begins inside a byte, or takes bits of two (three with odd groups): wide enough for all cases.
    const uint8_t* byte = x + first / 8 * image;
    const int shift = static_cast<int>(first % 8);
    const int64_t last = (first + count - 1) / 8 - first / 8;
    for (int64_t y = 0; y < c.height; ++y, byte += c.width) {
      if (last == 0) {
        planes.copy_row(to, y, [=](int64_t i) { return static_cast<Unit>((byte[i] >> shift) & valid); });
      } else if (last == 1) {
        planes.copy_row(to, y, [=](int64_t i) {
          return static_cast<Unit>(((byte[i] | static_cast<unsigned>(byte[image + i]) << 8) >> shift) & valid);
        });
      } else {
        planes.copy_row(to, y, [=](int64_t i) {
          const unsigned two = byte[i] | static_cast<unsigned>(byte[image + i]) << 8;
          return static_cast<Unit>(((two | static_cast<unsigned>(byte[2 * image + i]) << 16) >> shift) & valid);
        });
      }
    }
  }

  // Bits of eight channels, which may begin inside a byte of the output.
  void write_bits(const uint8_t* flat, int64_t first, int64_t count, uint8_t* out) const {
    const int64_t image = planes.out_height * planes.out_width;
    const int shift = static_cast<int>(first % 8);
    uint8_t* low = out + first / 8 * image;
    for (int64_t y = 0; y < planes.out_height; ++y, flat += planes.pitch, low += planes.out_width) {
      if (shift == 0) {
        std::memcpy(low, flat, static_cast<size_t>(planes.out_width));
        continue;
      }
      for (int64_t x = 0; x < planes.out_width; ++x) {
        low[x] = static_cast<uint8_t>(low[x] | flat[x] << shift);
        if (shift + count > 8) low[image + x] = static_cast<uint8_t>(flat[x] >> (8 - shift));
      }
    }
  }

  void write_floats(const int16_t* flat, int64_t o, float* out) const {
    const float* shift = bias.empty() ? nullptr : &bias[static_cast<size_t>(o)];
    out += o * planes.out_height * planes.out_width;
    if (planes.pitch == planes.out_width) {
      kernel().floats(flat, planes.pixels, scale[static_cast<size_t>(o)], shift, out);
      return;
    }
    for (int64_t y = 0; y < planes.out_height; ++y) {
      const int64_t width = planes.out_width;
      kernel().floats(flat + y * planes.pitch, width, scale[static_cast<size_t>(o)], shift, out + y * width);
    }
  }

  uint8_t flips(int64_t first, int64_t count) const {
    unsigned bits = 0;
    for (int64_t k = 0; !flip.empty() && k < count; ++k) bits |= (flip[static_cast<size_t>(first + k)] != 0 ? 1u : 0u) << k;
    return static_cast<uint8_t>(bits);
  }

  // Eight output channels of a group.
  void run_block(int64_t group, int64_t block, const void* units_of, void* flat, void* out) const {
    const int64_t at = group * blocks() + block;
    const int64_t first = group * outputs() + 8 * block, count = std::min<int64_t>(8, outputs() - 8 * block);
    const bool as_bits = layer.least != nullptr;
    BinaryTile tile{};
    tile.planes = units_of;
    tile.offsets = offsets.data();
    tile.steps = steps();
    tile.weights = folded->as<uint8_t>() + at * block_bytes;
    tile.pixels = planes.pixels;
    tile.classes = classes.data();
    tile.table = table.data() + at * 8 * kClasses;
    tile.bits = as_bits ? static_cast<uint8_t*>(flat) : nullptr;
    tile.flip = flips(first, count);
    tile.dots = as_bits ? nullptr : static_cast<int16_t*>(flat);
    tile.row = room();
    kernel().run(tile);
    if (as_bits) return write_bits(tile.bits, first, count, static_cast<uint8_t*>(out));
    for (int64_t k = 0; k < count; ++k) write_floats(tile.dots + k * room(), first + k, static_cast<float*>(out));
  }

  template <class Unit>
  void run_image(const uint8_t* x, void* out, int threads) const {
    const int64_t size = units() * planes.size, slack = room() + 64;
    const int64_t flat_bytes = Planes::up(room() * (layer.least != nullptr ? 1 : 16), 64) * 64;
    const Aligned flat(static_cast<size_t>(flat_bytes * threads)), scratch(static_cast<size_t>(size + slack) * sizeof(Unit));
    std::fill_n(scratch.as<Unit>() + size, slack, static_cast<Unit>(0));
    // Groups that begin inside a byte of bits write it one after the other.
    const int writers = layer.least != nullptr && outputs() % 8 != 0 && layer.conv.groups > 1 ? 1 : threads;
    for (int64_t group = 0; group < layer.conv.groups; ++group) {
      share(threads, units(), [&](int, int64_t u) { spread(x, group, u, scratch.as<Unit>() + u * planes.size); });
      share(writers, blocks(), [&](int thread, int64_t block) {
        run_block(group, block, scratch.as<Unit>(), flat.as<uint8_t>() + thread * flat_bytes, out);
      });
    }
  }

  void run(int64_t batch, const uint8_t* x, void* out, int threads) const {
    const lilliput_conv& c = layer.conv;
    const int64_t in = Planes::up(c.in, 8) * c.height * c.width, image = planes.out_height * planes.out_width;
    const int64_t made = layer.least != nullptr ? Planes::up(c.out, 8) * image : c.out * image * 4;  // bytes
    threads = worth(threads, static_cast<double>(c.out * planes.pixels) * static_cast<double>(inputs() * planes.taps()) / 256);
    for (int64_t n = 0; n < batch; ++n) {
      void* to = static_cast<uint8_t*>(out) + n * made;
      if (!tiled()) {
        reference_binary(layer, x + n * in, to);
      } else if (kernel().bytes == 1) {
        run_image<uint8_t>(x + n * in, to, threads);
      } else {
        run_image<uint16_t>(x + n * in, to, threads);
      }
    }
  }

  lilliput_binary_layer layer;
  Row row;
  Planes planes;
  std::vector<uint8_t> weight;
  std::vector<float> scale, bias;
  std::vector<int32_t> least;
  std::vector<uint8_t> flip, mask;
  std::vector<int32_t> offsets;
  std::vector<uint8_t> classes;
  std::vector<int16_t> table;  // [group][block][8][kClasses]
  std::unique_ptr<Aligned> folded;
  int64_t block_bytes = 0;
};

extern "C" int lilliput_binary_new(const lilliput_binary_layer* layer, const char* kernel, lilliput_binary** made) {
  return make_layer(layer->mask == nullptr ? "binary" : "ternary", *layer, kernel, made);
}

extern "C" void lilliput_binary_free(lilliput_binary* layer) { delete layer; }

extern "C" const char* lilliput_binary_kernel(const lilliput_binary* layer) { return layer->row.name; }

extern "C" int lilliput_binary_run(const lilliput_binary* layer, int64_t batch, const uint8_t* x, void* out, int threads) {
  return guarded([&] { layer->run(batch, x, out, threads); });
}

extern "C" int lilliput_binarize(const float* x, int64_t batch, int32_t channels, int64_t pixels, const float* least,
                                 const char* kernel, uint8_t* out) {
  const Row* row = nullptr;
  const int status = choose("binary", kernel, &row);
  if (status != lilliput_layer_ok) return status;
  if (batch < 0 || channels < 1 || pixels < 0) return lilliput_layer_bad_shape;
  const BinaryKernel& chosen = *static_cast<const BinaryKernel*>(row->kernel);
  for (int64_t n = 0; n < batch; ++n) {
    for (int64_t c = 0; c < channels; c += 8, out += pixels) {
      const int count = static_cast<int>(std::min<int64_t>(8, channels - c));
      chosen.binarize(x + (n * channels + c) * pixels, pixels, count, pixels, least == nullptr ? nullptr : least + c, out);
    }
  }
  return lilliput_layer_ok;
}
