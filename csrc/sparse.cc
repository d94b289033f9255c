#include "sparse.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <new>
#include <vector>

#include "kernels.h"
#include "planes.h"

using namespace lilliput;

namespace {

constexpr int64_t kNear = 24 << 10;  // bytes of the nearest cache that one part's pixels may take
constexpr int64_t kFew = 10;         // a part with fewer non-zeros an output costs more in sums kept than it gains

}  // namespace

struct lilliput_sparse {
  lilliput_sparse(const lilliput_sparse_layer& layer, const Row& chosen) : row(chosen), planes(layer.conv) {
    const lilliput_conv& c = layer.conv;
    if (layer.bias != nullptr) bias.assign(layer.bias, layer.bias + c.out);
    const int64_t inputs = c.in / c.groups, outputs = c.out / c.groups, size = layer.rows[c.out];
    parts = parts_for(size);
    const int64_t channels = Planes::up(inputs, parts);  // of a part
    rows.push_back(0);
    for (int64_t part = 0; part < parts; ++part) {
      for (int64_t o = 0; o < c.out; ++o) {
        for (int64_t k = layer.rows[o]; k < layer.rows[o + 1]; ++k) {
          const int64_t channel = layer.columns[k] / planes.taps(), tap = layer.columns[k] % planes.taps();
          if (channel / channels != part) continue;
          const int64_t plane = (o / outputs * inputs + channel) * planes.size;
          offsets.push_back(static_cast<int32_t>(plane + planes.tap(tap / c.kernel[1], tap % c.kernel[1])));
          values.push_back(layer.values[k]);
        }
        rows.push_back(static_cast<int64_t>(values.size()));
      }
    }
  }

  // As many parts as keep a block's pixels near, unless they would have too few non-zeros.
  int64_t parts_for(int64_t size) const {
    const lilliput_conv& c = planes.c;
    const int64_t reach = planes.tap(c.kernel[0] - 1, c.kernel[1] - 1);
    const int64_t read = std::min(planes.size, kBlock + reach) * static_cast<int64_t>(sizeof(float)) * (c.in / c.groups);
    return std::max<int64_t>(1, std::min(Planes::up(read, kNear), size / c.out / kFew));
  }

  void run(int64_t batch, const float* x, float* out) const {
    const lilliput_conv& c = planes.c;
    const int64_t image = static_cast<int64_t>(c.height) * c.width, made = planes.out_height * planes.out_width;
    std::vector<float> scratch(planes.plain() ? 0 : static_cast<size_t>(c.in * planes.size));
    const std::unique_ptr<float[], Free> sums(new (std::align_val_t{64}) float[static_cast<size_t>(c.out * kBlock)]);
    SparseTile tile{};
    tile.parts = parts;
    tile.sums = sums.get();
    tile.rows = rows.data();
    tile.offsets = offsets.data();
    tile.values = values.data();
    tile.bias = bias.empty() ? nullptr : bias.data();
    tile.outputs = c.out;
    tile.pixels = planes.pixels;
    tile.pitch = planes.pitch;
    tile.width = planes.out_width;
    tile.plane = made;
    for (int64_t n = 0; n < batch; ++n) {
      const float* from = x + n * c.in * image;
      tile.out = out + n * c.out * made;
      tile.planes = planes.plain() ? from : scratch.data();
      if (!planes.plain()) fill(from, scratch.data());
      static_cast<const SparseKernel*>(row.kernel)->run(tile);
    }
  }

  void fill(const float* from, float* to) const {
    for (int64_t channel = 0; channel < planes.c.in; ++channel, to += planes.size) {
      for (int64_t y = 0; y < planes.c.height; ++y, from += planes.c.width) {
        planes.copy_row(to, y, [=](int64_t x) { return from[x]; });
      }
    }
  }

  struct Free {
    void operator()(float* p) const { ::operator delete[](p, std::align_val_t{64}); }
  };

  Row row;
  Planes planes;
  int64_t parts = 1;
  std::vector<int64_t> rows;
  std::vector<int32_t> offsets;
  std::vector<float> values, bias;
};

namespace {

bool well_formed(const lilliput_sparse_layer& layer) {
  const lilliput_conv& c = layer.conv;
  const int64_t columns = static_cast<int64_t>(c.in / c.groups) * c.kernel[0] * c.kernel[1];
  if (layer.rows[0] != 0) return false;
  for (int64_t o = 0; o < c.out; ++o) {
    if (layer.rows[o + 1] < layer.rows[o]) return false;
    for (int64_t k = layer.rows[o]; k < layer.rows[o + 1]; ++k) {
      if (layer.columns[k] < 0 || layer.columns[k] >= columns) return false;
    }
  }
  return true;
}

}  // namespace

extern "C" int lilliput_sparse_new(const lilliput_sparse_layer* layer, const char* kernel, lilliput_sparse** made) {
  const int checked = lilliput_conv_check(&layer->conv);
  if (checked != lilliput_layer_ok) return checked;
  if (!well_formed(*layer)) return lilliput_layer_bad_weights;
  const Row* row = nullptr;
  const int status = choose("sparse", kernel, &row);
  if (status != lilliput_layer_ok) return status;
  try {
    *made = new lilliput_sparse(*layer, *row);
  } catch (const std::bad_alloc&) {
    return lilliput_layer_no_memory;
  }
  return lilliput_layer_ok;
}

extern "C" void lilliput_sparse_free(lilliput_sparse* layer) { delete layer; }

extern "C" const char* lilliput_sparse_kernel(const lilliput_sparse* layer) { return layer->row.name; }

extern "C" int lilliput_sparse_run(const lilliput_sparse* layer, int64_t batch, const float* x, float* out) {
  try {
    layer->run(batch, x, out);
  } catch (const std::bad_alloc&) {
    return lilliput_layer_no_memory;
  }
  return lilliput_layer_ok;
}
