#include "sparse.h"

#include <algorithm>
#include <vector>

#include "kernels.h"
#include "layer.h"
#include "memory.h"
#include "planes.h"
#include "pool.h"

using namespace lilliput;

namespace {

constexpr int64_t kLine = 16;         // floats in a line of cache
constexpr int64_t kNear = 26 << 10;   // bytes of the nearest cache that one part's pixels may take
constexpr int64_t kMostParts = 64;

// Rows follow each other so closely that one's padding on the right is the next one's on the left; or they begin where whole
// registers do, if fewer loads that cross a line are worth the pixels of no use.
int64_t pitch_for(const lilliput_conv& c, int64_t lanes) {
  const int64_t close = std::max<int64_t>(c.width + c.padding[1], lilliput_conv_output(&c, 1));
  const auto cost = [&](int64_t pitch) {
    int64_t aligned = 0;
    for (int64_t ky = 0; ky < c.kernel[0]; ++ky) {
      for (int64_t kx = 0; kx < c.kernel[1]; ++kx) {
        aligned += (ky * c.dilation[0] * pitch + kx * c.dilation[1]) % lanes == 0;
      }
    }
    return pitch * (3LL * c.kernel[0] * c.kernel[1] - aligned);  // a load that crosses costs half as much again
  };
  const int64_t whole = Planes::up(close, lanes) * lanes;
  return cost(whole) < cost(close) ? whole : close;
}

// Whether the image itself will do as planes: whole registers, and not every channel in the same places of the cache.
bool is_plain(const lilliput_conv& c) {
  const int64_t image = static_cast<int64_t>(c.height) * c.width;
  return c.kernel[0] == 1 && c.kernel[1] == 1 && c.stride[0] == 1 && c.stride[1] == 1 && c.padding[0] == 0 &&
         c.padding[1] == 0 && image % kLine == 0 && image % (32 * kLine) != 0;
}

// Planes are lines of cache, an odd number of them, so that equal pixels of many channels do not compete for the same places;
// and a line longer than their pixels, so that zeros written behind one plane never reach into the next.
Planes planes_for(const lilliput_conv& c, int64_t lanes) {
  Planes p(c);
  if (is_plain(c)) return p;  // their size is the image's
  if (c.stride[0] == 1 && c.stride[1] == 1) {
    p.pitch = pitch_for(c, lanes);
    p.pixels = (p.out_height - 1) * p.pitch + p.out_width;
    p.size = p.rows * p.pitch + c.padding[1];
  }
  p.size = ((Planes::up(p.size, kLine) + 1) | 1) * kLine;
  return p;
}

struct Plan {
  int64_t registers, parts;
};

// How many registers a block has, and how many parts: what takes the fewest cycles, counted for a core that loads and
// multiplies two registers a cycle from its nearest cache, and half as many from the next.
Plan plan_for(const Planes& planes, double each, const SparseKernel& kernel) {
  const lilliput_conv& c = planes.c;
  const int64_t inputs = c.in / c.groups, reach = planes.tap(c.kernel[0] - 1, c.kernel[1] - 1);
  const int64_t registers = Planes::up(planes.pixels, kernel.lanes);
  Plan best{1, 1};
  double least = -1;
  for (int64_t n = 1; n <= std::min<int64_t>(kernel.most, registers); ++n) {
    const int64_t span = std::min(planes.size, n * kernel.lanes + reach) * static_cast<int64_t>(sizeof(float));
    for (int64_t parts = 1; parts <= std::min(inputs, kMostParts); ++parts) {
      const double load = span * Planes::up(inputs, parts) <= kNear ? 0.5 : 1.1;
      const double sums = (parts == 1 ? 1.0 : 2.0) * static_cast<double>(n);
      const double cycles = each * (load * static_cast<double>(n) + 0.6) + static_cast<double>(parts) * (10 + sums);
      const double all = cycles * static_cast<double>(Planes::up(registers, n));
      if (least < 0 || all <= least) {
        least = all;
        best = {n, parts};
      }
    }
  }
  return best;
}

}  // namespace

struct lilliput_sparse {
  lilliput_sparse(const lilliput_sparse_layer& layer, const Row& chosen)
      : row(chosen),
        planes(planes_for(layer.conv, kernel().lanes)),
        plan(plan_for(planes, static_cast<double>(layer.rows[layer.conv.out]) / layer.conv.out, kernel())) {
    const lilliput_conv& c = layer.conv;
    if (layer.bias != nullptr) bias.assign(layer.bias, layer.bias + c.out);
    const int64_t inputs = c.in / c.groups, outputs = c.out / c.groups, channels = Planes::up(inputs, plan.parts);
    rows.push_back(0);
    for (int64_t part = 0; part < plan.parts; ++part) {
      for (int64_t o = 0; o < c.out; ++o) {
        for (int64_t k = layer.rows[o]; k < layer.rows[o + 1]; ++k) {
          const int64_t channel = layer.columns[k] / planes.taps(), tap = layer.columns[k] % planes.taps();
          if (channel / channels != part) continue;
          const int64_t plane = (o / outputs * inputs + channel) * planes.size;
          const int64_t offset = plane + planes.tap(tap / c.kernel[1], tap % c.kernel[1]);
          weights.push_back({static_cast<int32_t>(offset), layer.values[k]});
        }
        rows.push_back(static_cast<int64_t>(weights.size()));
      }
    }
  }

  static int sound(const lilliput_sparse_layer& layer) {
    const lilliput_conv& c = layer.conv;
    const int64_t columns = static_cast<int64_t>(c.in / c.groups) * c.kernel[0] * c.kernel[1];
    bool good = layer.rows[0] == 0;
    for (int64_t o = 0; good && o < c.out; ++o) {
      good = layer.rows[o + 1] >= layer.rows[o];
      for (int64_t k = layer.rows[o]; good && k < layer.rows[o + 1]; ++k) {
        good = layer.columns[k] >= 0 && layer.columns[k] < columns;
      }
    }
    return good ? lilliput_layer_ok : lilliput_layer_bad_weights;
  }

  static bool covers(const lilliput_sparse_layer&) { return true; }

  const SparseKernel& kernel() const { return *static_cast<const SparseKernel*>(row.kernel); }

  void run(int64_t batch, const float* x, float* out, int threads) const {
    const lilliput_conv& c = planes.c;
    const int64_t image = static_cast<int64_t>(c.height) * c.width, made = planes.out_height * planes.out_width;
    threads = worth(threads, static_cast<double>(weights.size()) * static_cast<double>(planes.pixels) / 16);
    const bool plain = is_plain(c);
    const Aligned scratch(plain ? 0 : sizeof(float) * static_cast<size_t>(c.in * planes.size + planes.pitch + 32 * kLine));
    const Aligned sums(sizeof(float) * static_cast<size_t>(threads * c.out * plan.registers * kernel().lanes));
    for (int64_t n = 0; n < batch; ++n) {
      const float* from = x + n * c.in * image;
      if (!plain) {
        const int64_t some = Planes::up(c.in, 4 * threads);  // channels at a time
        share(threads, Planes::up(c.in, some), [&](int, int64_t i) {
          const int64_t first = i * some, count = std::min(some, c.in - first);
          fill(count, from + first * image, scratch.as<float>() + first * planes.size);
        });
      }
      compute(plain ? from : scratch.as<float>(), out + n * c.out * made, sums.as<float>(), threads);
    }
  }

  void compute(const float* from, float* out, float* sums, int threads) const {
    const int64_t lanes = kernel().lanes, registers = Planes::up(planes.pixels, lanes);
    const int64_t blocks = kernel().most == 0 ? 1 : Planes::up(registers, plan.registers);
    const int64_t slices = threads == 1 ? 1 : std::min<int64_t>(planes.c.out, Planes::up(4 * threads, blocks));
    share(threads, blocks * slices, [&](int thread, int64_t task) {
      const int64_t block = task / slices, slice = task % slices;
      SparseTile tile{};
      tile.planes = from;
      tile.parts = plan.parts;
      tile.rows = rows.data();
      tile.weights = weights.data();
      tile.bias = bias.empty() ? nullptr : bias.data();
      tile.outputs = planes.c.out;
      tile.first = planes.c.out * slice / slices;
      tile.last = planes.c.out * (slice + 1) / slices;
      tile.at = registers * block / blocks * lanes;  // blocks that differ by one register at most
      tile.registers = registers * (block + 1) / blocks - registers * block / blocks;
      tile.pixels = planes.pixels;
      tile.pitch = planes.pitch;
      tile.width = planes.out_width;
      tile.plane = planes.out_height * planes.out_width;
      tile.out = out;
      tile.sums = sums + thread * planes.c.out * plan.registers * lanes;
      kernel().run(tile);
    });
  }

  // Channels of an image into planes.
  void fill(int64_t channels, const float* from, float* to) const {
    const lilliput_conv& c = planes.c;
    if (kernel().fill != nullptr && c.stride[0] == 1 && c.stride[1] == 1) {
      const int64_t lead = c.padding[0] * planes.pitch + c.padding[1], whole = static_cast<int64_t>(c.height) * c.width;
      const bool one = lead == 0 && planes.pitch == c.width;  // rows without anything between them
      const SparseCopy rows_of{channels, c.height, c.width, lead, planes.pitch, planes.size};
      return kernel().fill(one ? SparseCopy{channels, 1, whole, 0, whole, planes.size} : rows_of, from, to);
    }
    std::fill_n(to, channels * planes.size, 0.0f);
    for (int64_t channel = 0; channel < channels; ++channel, to += planes.size) {
      for (int64_t y = 0; y < c.height; ++y, from += c.width) {
        planes.copy_row(to, y, [=](int64_t x) { return from[x]; });
      }
    }
  }

  Row row;
  Planes planes;
  Plan plan;
  std::vector<int64_t> rows;
  std::vector<SparseWeight> weights;
  std::vector<float> bias;
};

extern "C" int lilliput_sparse_new(const lilliput_sparse_layer* layer, const char* kernel, lilliput_sparse** made) {
  return make_layer("sparse", *layer, kernel, made);
}

extern "C" void lilliput_sparse_free(lilliput_sparse* layer) { delete layer; }

extern "C" const char* lilliput_sparse_kernel(const lilliput_sparse* layer) { return layer->row.name; }

extern "C" int lilliput_sparse_run(const lilliput_sparse* layer, int64_t batch, const float* x, float* out, int threads) {
  return guarded([&] { layer->run(batch, x, out, threads); });
}
