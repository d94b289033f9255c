// ONNX Runtime's public C interface, as much of it as a custom operation needs: a table of functions, called by their place.
// The table only ever grows at its end, so these places hold for every version from 15 on.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include <string>
#include <utility>
#include <vector>

namespace ort {

using Status = void*;  // null: it went well
constexpr uint32_t kVersion = 16;
constexpr uint32_t kOldest = 15;  // without the two checked calls of an operation: there, an error is thrown

enum Place : size_t {
  create_status = 0,
  error_message = 2,
  create_domain = 26,
  add_to_domain = 27,
  add_domain = 28,
  tensor_data = 51,
  element_type = 60,
  rank = 61,
  dimensions = 62,
  type_and_shape = 65,
  release_status = 93,
  attribute_int = 86,
  context_input = 90,
  context_output = 91,
  release_shape = 99,
  attribute_ints = 163,
  info_input_count = 230,
  constant_input = 249,
};

enum Element : int { none = 0, floats = 1, bytes = 2, ints = 6 };
enum Code : int { failed = 1, invalid_argument = 2 };

struct ApiBase {
  const void* const* (*get)(uint32_t version);
  const char* (*version)();
};

// Version 16 of OrtCustomOp. What is null is never called for operations without variadic inputs.
struct Operation {
  uint32_t version;
  void* (*create)(const Operation*, const void* const* api, const void* info);
  const char* (*name)(const Operation*);
  const char* (*provider)(const Operation*);
  int (*input_type)(const Operation*, size_t);
  size_t (*inputs)(const Operation*);
  int (*output_type)(const Operation*, size_t);
  size_t (*outputs)(const Operation*);
  void (*compute)(void* kernel, void* context);
  void (*destroy)(void* kernel);
  int (*input_kind)(const Operation*, size_t);
  int (*output_kind)(const Operation*, size_t);
  int (*input_memory)(const Operation*, size_t);
  int (*variadic_input_least)(const Operation*);
  int (*variadic_input_alike)(const Operation*);
  int (*variadic_output_least)(const Operation*);
  int (*variadic_output_alike)(const Operation*);
  Status (*create_checked)(const Operation*, const void* const* api, const void* info, void** kernel);
  Status (*compute_checked)(void* kernel, void* context);
};

// What ends in an error of ONNX Runtime's.
struct Failed {
  std::string what;
};

struct Given {  // a Status of the runtime's own, passed on
  Status status;
};

struct Api {
  const void* const* table;

  template <class... A>
  Status ask(Place place, A... arguments) const {
    return reinterpret_cast<Status (*)(A...)>(const_cast<void*>(table[place]))(arguments...);
  }

  template <class... A>
  void call(Place place, A... arguments) const {
    if (Status status = ask(place, arguments...)) throw Given{status};
  }

  // For questions with an answer that may be no.
  template <class... A>
  bool agrees(Place place, A... arguments) const {
    Status status = ask(place, arguments...);
    if (status != nullptr) reinterpret_cast<void (*)(Status)>(const_cast<void*>(table[release_status]))(status);
    return status == nullptr;
  }

  Status fail(const std::string& what) const {
    return reinterpret_cast<Status (*)(int, const char*)>(const_cast<void*>(table[create_status]))(invalid_argument, what.c_str());
  }
};

struct Tensor {
  const void* data = nullptr;  // null where an optional input was left out
  int type = none;
  std::vector<int64_t> shape;

  int64_t size() const {
    int64_t product = 1;
    for (int64_t n : shape) product *= n;
    return product;
  }
};

inline Tensor read(const Api& api, const void* value) {
  Tensor made;
  void* shape = nullptr;
  void* data = nullptr;
  size_t dims = 0;
  api.call(type_and_shape, value, &shape);
  int type = none;
  api.call(element_type, static_cast<const void*>(shape), &type);
  api.call(rank, static_cast<const void*>(shape), &dims);
  made.shape.resize(dims);
  api.call(dimensions, static_cast<const void*>(shape), made.shape.data(), dims);
  reinterpret_cast<void (*)(void*)>(const_cast<void*>(api.table[release_shape]))(shape);
  api.call(tensor_data, const_cast<void*>(value), &data);
  made.type = type;
  made.data = data;
  return made;
}

}  // namespace ort
