// What a node is told: attributes, initializers and inputs, read from ONNX Runtime or refused with a reason.
#pragma once

#include <cstdlib>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "conv.h"
#include "ort_abi.h"

namespace ort {

constexpr int64_t kMostSide = 1 << 20;

[[noreturn]] inline void fail(const std::string& what) { throw Failed{what}; }

inline int64_t number(const Api& api, const void* info, const char* name) {
  int64_t value = 0;
  if (!api.agrees(attribute_int, info, name, &value)) fail(std::string("attribute `") + name + "` must be a whole number");
  return value;
}

inline std::vector<int64_t> numbers(const Api& api, const void* info, const char* name) {
  size_t size = 0;
  // Asked without room first: the answer is how much is needed.
  if (!api.agrees(attribute_ints, info, name, static_cast<int64_t*>(nullptr), &size) || size != 2) {
    fail(std::string("attribute `") + name + "` must be two whole numbers");
  }
  std::vector<int64_t> values(size);
  api.call(attribute_ints, info, name, values.data(), &size);
  return values;
}

inline int32_t narrow(int64_t value, const char* what) {
  if (value < -1 || value > kMostSide) fail(std::string(what) + " of " + std::to_string(value));
  return static_cast<int32_t>(value);
}

inline void pair(const Api& api, const void* info, const char* name, int32_t (&to)[2]) {
  const std::vector<int64_t> values = numbers(api, info, name);
  for (int axis = 0; axis < 2; ++axis) to[axis] = narrow(values[static_cast<size_t>(axis)], name);
}

// An initializer, or nothing where an optional one was left out.
inline Tensor constant(const Api& api, const void* info, size_t index, const char* what, int type, bool optional = false) {
  size_t count = 0;
  api.call(info_input_count, info, &count);
  if (optional && index >= count) return {};
  int fixed = 0;
  const void* value = nullptr;
  if (!api.agrees(constant_input, info, index, &fixed, &value) || fixed == 0 || value == nullptr) {
    if (optional && value == nullptr && fixed == 0 && index + 1 < count) return {};
    fail(std::string("input `") + what + "` must be an initializer");
  }
  const Tensor tensor = read(api, value);
  if (tensor.type != type) fail(std::string("input `") + what + "` has elements of another type");
  return tensor;
}

template <class T>
std::vector<T> values(const Tensor& tensor) {
  const T* from = static_cast<const T*>(tensor.data);
  return from == nullptr ? std::vector<T>() : std::vector<T>(from, from + tensor.size());
}

template <class T>
const T* or_null(const std::vector<T>& v) { return v.empty() ? nullptr : v.data(); }

inline void sized(size_t size, int64_t expected, const char* what) {
  if (static_cast<int64_t>(size) == expected) return;
  const std::string name = std::string("input `") + what + "`";
  fail(name + " has " + std::to_string(size) + " elements where " + std::to_string(expected) + " belong");
}

// How many threads a node may use: what $LILLIPUT_THREADS says, else the one that calls it.
inline int threads_told() {
  const char* told = std::getenv("LILLIPUT_THREADS");
  if (told == nullptr || *told == '\0') return 1;
  char* end = nullptr;
  const long threads = std::strtol(told, &end, 10);
  if (*end != '\0' || threads < 1 || threads > 1024) {
    fail(std::string("$LILLIPUT_THREADS is `") + told + "`, and a number from 1 to 1024 belongs there");
  }
  return static_cast<int>(threads);
}

inline void check(int status) {
  switch (status) {
    case lilliput_layer_ok: return;
    case lilliput_layer_bad_weights: fail("weights that do not fit the shape");
    case lilliput_layer_no_such_kernel: fail("$LILLIPUT_KERNEL names no kernel");
    case lilliput_layer_not_here: fail("this processor cannot run the kernel that $LILLIPUT_KERNEL names");
    case lilliput_layer_no_memory: fail("out of memory");
    default: fail("a shape that no convolution has");
  }
}

inline Tensor input(const Api& api, const void* context, size_t index, int type) {
  const void* value = nullptr;
  api.call(context_input, context, index, &value);
  if (value == nullptr) fail("the first input is missing");
  Tensor tensor = read(api, value);
  if (tensor.type != type) fail("the first input has elements of another type");
  return tensor;
}

inline void* output(const Api& api, void* context, const std::vector<int64_t>& shape) {
  void* value = nullptr;
  void* data = nullptr;
  api.call(context_output, context, static_cast<size_t>(0), shape.data(), shape.size(), &value);
  api.call(tensor_data, value, &data);
  return data;
}

inline void belong(int64_t found, int64_t expected, const char* what) {
  if (found == expected) return;
  fail("the first input has " + std::to_string(found) + " " + what + " where " + std::to_string(expected) + " belong");
}

inline const std::vector<int64_t>& four(const Tensor& x) {
  if (x.shape.size() != 4) fail("the first input must have four dimensions, and has " + std::to_string(x.shape.size()));
  return x.shape;
}

// Packed layers by the size of their image.
template <class Layer>
class Packed {
 public:
  template <class Make>
  const Layer& at(int64_t height, int64_t width, Make make) const {
    const std::lock_guard<std::mutex> lock(mutex_);
    auto& layer = layers_[{height, width}];
    if (!layer) layer = make();
    return *layer;
  }

 private:
  mutable std::mutex mutex_;
  mutable std::map<std::pair<int64_t, int64_t>, std::shared_ptr<Layer>> layers_;
};

}  // namespace ort
