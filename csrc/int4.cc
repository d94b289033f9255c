#include "int4.h"

#include <algorithm>
#include <memory>
#include <vector>

#include "kernels.h"
#include "layer.h"
#include "memory.h"
#include "planes.h"
#include "pool.h"
#include "reference.h"

using namespace lilliput;

namespace {

constexpr int64_t kMostByte = 255, kMostWeight = 8;

// The weight of channel c of a group.
int weight_of(const lilliput_int4_layer& layer, int64_t o, int64_t c, int64_t tap) {
  const lilliput_conv& conv = layer.conv;
  const int64_t taps = static_cast<int64_t>(conv.kernel[0]) * conv.kernel[1], bytes = (conv.in / conv.groups + 1) / 2;
  const int half = layer.weight[(o * bytes + c / 2) * taps + tap] >> (4 * (c % 2)) & 15;
  return half < 8 ? half : half - 16;
}

}  // namespace

// What was asked for, and what the tiles of a vector kernel need.
struct lilliput_int4 {
  lilliput_int4(const lilliput_int4_layer& given, const Row& chosen) : layer(given), row(chosen), planes(given.conv) {
    const lilliput_conv& c = given.conv;
    weight.assign(given.weight, given.weight + c.out * ((inputs() + 1) / 2) * planes.taps());
    scale.assign(given.scale, given.scale + c.out);
    if (given.bias != nullptr) bias.assign(given.bias, given.bias + c.out);
    layer.weight = weight.data();
    layer.scale = scale.data();
    layer.bias = bias.empty() ? nullptr : bias.data();
    if (kernel().run != nullptr) prepare();
  }

  static int sound(const lilliput_int4_layer& given) {
    return given.zero < 0 || given.zero > kMostByte ? lilliput_layer_bad_weights : lilliput_layer_ok;
  }

  // Twice what a sum can be, for what is taken away for `zero`.
  static bool covers(const lilliput_int4_layer& given) {
    const lilliput_conv& c = given.conv;
    return 2 * kMostByte * kMostWeight * (c.in / c.groups) * c.kernel[0] * c.kernel[1] <= INT32_MAX;
  }

  const Int4Kernel& kernel() const { return *static_cast<const Int4Kernel*>(row.kernel); }
  int64_t inputs() const { return layer.conv.in / layer.conv.groups; }    // of a group
  int64_t outputs() const { return layer.conv.out / layer.conv.groups; }  // of a group
  int64_t units() const { return Planes::up(inputs(), kernel().channels); }
  int64_t blocks() const { return Planes::up(outputs(), kernel().outputs); }
  int64_t steps() const { return units() * planes.taps(); }
  int64_t room() const { return planes.pixels + kernel().slack; }  // a flat output, and what a tile runs on by

  void prepare() {
    const int64_t across = layer.conv.kernel[1];
    for (int64_t u = 0; u < units(); ++u) {
      for (int64_t t = 0; t < planes.taps(); ++t) {
        offsets.push_back(static_cast<int32_t>(u * planes.size + planes.tap(t / across, t % across)));
      }
    }
    for (int64_t o = 0; o < layer.conv.out; ++o) {
      int64_t sum = 0;
      for (int64_t c = 0; c < inputs(); ++c) {
        for (int64_t t = 0; t < planes.taps(); ++t) sum += weight_of(layer, o, c, t);
      }
      less.push_back(static_cast<int32_t>(sum * layer.zero));
    }
    codes.assign(static_cast<size_t>(layer.conv.groups * blocks() * block_codes()), 0);
    for (int64_t at = 0; at < layer.conv.groups * blocks(); ++at) {
      prepare_block(at / blocks(), at % blocks(), codes.data() + at * block_codes());
      flushes.push_back(flushes_of(codes.data() + at * block_codes()));
    }
  }

  int64_t block_codes() const { return steps() * kernel().outputs * kernel().channels; }

  // [step][output][channel of a unit]
  void prepare_block(int64_t group, int64_t block, int8_t* to) const {
    for (int64_t s = 0; s < steps(); ++s) {
      for (int64_t k = 0; k < kernel().outputs; ++k) {
        for (int64_t b = 0; b < kernel().channels; ++b, ++to) {
          const int64_t o = block * kernel().outputs + k, c = s / planes.taps() * kernel().channels + b;
          if (o >= outputs() || c >= inputs()) continue;
          *to = static_cast<int8_t>(weight_of(layer, group * outputs() + o, c, s % planes.taps()));
        }
      }
    }
  }

  // The steps before which 16-bit sums have to be added to 32-bit ones, as these weights could pass 16 bits there; and the end.
  std::vector<int64_t> flushes_of(const int8_t* w) const {
    const size_t count = static_cast<size_t>(kernel().outputs);
    std::vector<int64_t> found, low(count), high(count);
    for (int64_t s = 0; kernel().narrow && s < steps(); ++s) {
      bool full = false;
      std::vector<int64_t> down(count), up(count);
      for (size_t k = 0; k < count; ++k) {
        for (int64_t b = 0; b < kernel().channels; ++b, ++w) (*w < 0 ? down : up)[k] += kMostByte * *w;
        full = full || low[k] + down[k] < INT16_MIN || high[k] + up[k] > INT16_MAX;
      }
      if (full) {
        found.push_back(s);
        std::fill(low.begin(), low.end(), 0);
        std::fill(high.begin(), high.end(), 0);
      }
      for (size_t k = 0; k < count; ++k) {
        low[k] += down[k];
        high[k] += up[k];
      }
    }
    found.push_back(steps());
    return found;
  }

  // Unit u of a group: the activations of its channels, pixel by pixel, the first in the lowest byte.
  template <class Unit>
  void spread(const uint8_t* x, int64_t group, int64_t u, Unit* to) const {
    const lilliput_conv& c = layer.conv;
    const int64_t image = static_cast<int64_t>(c.height) * c.width, per = static_cast<int64_t>(sizeof(Unit));
    const int64_t first = u * per, last = inputs() - 1;
    Unit outside = 0;
    for (int64_t b = 0; b < per; ++b) outside = static_cast<Unit>(outside | static_cast<Unit>(layer.zero) << (8 * b));
    std::fill_n(to, planes.size, outside);
    const uint8_t* from[sizeof(Unit)];  // channels beyond the last have weights of 0: any activation will do
    for (int64_t b = 0; b < per; ++b) from[b] = x + (group * inputs() + std::min(first + b, last)) * image;
    for (int64_t y = 0; y < c.height; ++y) {
      planes.copy_row(to, y, [&](int64_t i) {
        Unit unit = 0;
        for (size_t b = 0; b < sizeof(Unit); ++b) {
          unit = static_cast<Unit>(unit | static_cast<Unit>(from[b][y * c.width + i]) << (8 * b));
        }
        return unit;
      });
    }
  }

  void run_block(int64_t group, int64_t block, const void* units_of, int32_t* sums, float* out) const {
    const int64_t at = group * blocks() + block;
    Int4Tile tile{};
    tile.planes = units_of;
    tile.offsets = offsets.data();
    tile.ends = flushes[static_cast<size_t>(at)].data();
    tile.steps = steps();
    tile.weights = codes.data() + at * block_codes();
    tile.pixels = planes.pixels;
    tile.sums = sums;
    tile.row = room();
    kernel().run(tile);
    const int64_t width = planes.out_width, image = planes.out_height * width;
    for (int64_t k = 0; k < std::min<int64_t>(kernel().outputs, outputs() - block * kernel().outputs); ++k, sums += room()) {
      const size_t o = static_cast<size_t>(group * outputs() + block * kernel().outputs + k);
      const float* shift = bias.empty() ? nullptr : &bias[o];
      for (int64_t y = 0; y < planes.out_height; ++y) {
        float* to = out + static_cast<int64_t>(o) * image + y * width;
        kernel().floats(sums + y * planes.pitch, width, less[o], scale[o], shift, to);
      }
    }
  }

  template <class Unit>
  void run_image(const uint8_t* x, float* out, int threads) const {
    const int64_t size = units() * planes.size, slack = room() + 64, flat = Planes::up(kernel().outputs * room(), 16) * 16;
    const Aligned scratch(static_cast<size_t>(size + slack) * sizeof(Unit)), sums(static_cast<size_t>(flat * threads) * 4);
    std::fill_n(scratch.as<Unit>() + size, slack, static_cast<Unit>(0));
    for (int64_t group = 0; group < layer.conv.groups; ++group) {
      share(threads, units(), [&](int, int64_t u) { spread(x, group, u, scratch.as<Unit>() + u * planes.size); });
      share(threads, blocks(), [&](int thread, int64_t block) {
        run_block(group, block, scratch.as<Unit>(), sums.as<int32_t>() + thread * flat, out);
      });
    }
  }

  void run(int64_t batch, const uint8_t* x, float* out, int threads) const {
    const lilliput_conv& c = layer.conv;
    const int64_t in = static_cast<int64_t>(c.in) * c.height * c.width, made = c.out * planes.out_height * planes.out_width;
    threads = worth(threads, static_cast<double>(c.out * planes.pixels) * static_cast<double>(inputs() * planes.taps()) / 64);
    for (int64_t n = 0; n < batch; ++n) {
      if (kernel().run == nullptr) {
        reference_int4(layer, x + n * in, out + n * made);
      } else if (kernel().channels == 2) {
        run_image<uint16_t>(x + n * in, out + n * made, threads);
      } else {
        run_image<uint32_t>(x + n * in, out + n * made, threads);
      }
    }
  }

  lilliput_int4_layer layer;
  Row row;
  Planes planes;
  std::vector<uint8_t> weight;
  std::vector<float> scale, bias;
  std::vector<int32_t> offsets, less;  // less: what `zero` adds to the sums of an output
  std::vector<int8_t> codes;
  std::vector<std::vector<int64_t>> flushes;
};

extern "C" int lilliput_int4_new(const lilliput_int4_layer* layer, const char* kernel, lilliput_int4** made) {
  return make_layer("int4", *layer, kernel, made);
}

extern "C" void lilliput_int4_free(lilliput_int4* layer) { delete layer; }

extern "C" const char* lilliput_int4_kernel(const lilliput_int4* layer) { return layer->row.name; }

extern "C" int lilliput_int4_run(const lilliput_int4* layer, int64_t batch, const uint8_t* x, float* out, int threads) {
  return guarded([&] { layer->run(batch, x, out, threads); });
}
