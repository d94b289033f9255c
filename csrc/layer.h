// What the C interfaces of all families share: from a description to a layer that is ready to run, and errors as numbers.
#pragma once

#include <new>

#include "conv.h"
#include "kernels.h"

namespace lilliput {

template <class Work>
int guarded(Work work) {
  try {
    work();
  } catch (const std::bad_alloc&) {
    return lilliput_layer_no_memory;
  }
  return lilliput_layer_ok;
}

// `Layer::sound` says what is wrong with a description of the right shape, if anything; `Layer::covers`, whether the tiles of a
// vector kernel hold its numbers: the portable one takes all.
template <class Layer, class Given>
int make_layer(const char* family, const Given& given, const char* kernel, Layer** made) {
  const Row* row = nullptr;
  int status = lilliput_conv_check(&given.conv);
  if (status == lilliput_layer_ok) status = Layer::sound(given);
  if (status == lilliput_layer_ok) status = choose(family, kernel, &row);
  if (status != lilliput_layer_ok) return status;
  return guarded([&] {
    if (!Layer::covers(given)) choose(family, "portable", &row);
    *made = new Layer(given, *row);
  });
}

}  // namespace lilliput
