#include "sparse.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <new>
#include <vector>

#include "kernels.h"
#include "planes.h"

using namespace lilliput;

struct lilliput_sparse {
  lilliput_sparse(const lilliput_sparse_layer& layer, const Row& chosen)
      : row(chosen),
        planes(layer.conv),
        rows(layer.rows, layer.rows + layer.conv.out + 1),
        values(layer.values, layer.values + rows.back()) {
    if (layer.bias != nullptr) bias.assign(layer.bias, layer.bias + layer.conv.out);
    const lilliput_conv& c = layer.conv;
    const int64_t inputs = c.in / c.groups, outputs = c.out / c.groups;
    offsets.reserve(values.size());
    for (int64_t o = 0; o < c.out; ++o) {
      for (int64_t k = rows[static_cast<size_t>(o)]; k < rows[static_cast<size_t>(o) + 1]; ++k) {
        const int64_t channel = o / outputs * inputs + layer.columns[k] / planes.taps(), tap = layer.columns[k] % planes.taps();
        offsets.push_back(static_cast<int32_t>(channel * planes.size + planes.tap(tap / c.kernel[1], tap % c.kernel[1])));
      }
    }
  }

  void run(int64_t batch, const float* x, float* out) const {
    const lilliput_conv& c = planes.c;
    const int64_t image = static_cast<int64_t>(c.height) * c.width, made = planes.out_height * planes.out_width;
    std::vector<float> scratch(planes.plain() ? 0 : static_cast<size_t>(c.in * planes.size));
    SparseTile tile{};
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

  Row row;
  Planes planes;
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
