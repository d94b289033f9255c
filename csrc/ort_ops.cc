// The library that ONNX Runtime loads: it registers every operation of ort_layers.cc in the domain `lilliput`.
#include <cstdlib>
#include <cstring>
#include <exception>
#include <stdexcept>
#include <vector>

#include "ort_layers.h"

#if defined(_WIN32)
#define LILLIPUT_EXPORT extern "C" __declspec(dllexport)
#else
#define LILLIPUT_EXPORT extern "C" __attribute__((visibility("default")))
#endif

namespace ort {
namespace {

struct Registered : Operation {
  const Kind* kind;
};

struct Made {
  Api api;
  const char* name;
  std::unique_ptr<Node> node;
};

const Kind& kind_of(const Operation* op) { return *static_cast<const Registered*>(op)->kind; }

// Whatever goes wrong becomes a status; nothing is thrown into the runtime, unless it knows no other way.
template <class Work>
Status guarded(const Api& api, const char* name, Work work) {
  try {
    work();
    return nullptr;
  } catch (const Given& given) {
    return given.status;
  } catch (const Failed& failed) {
    return api.fail(std::string("lilliput.") + name + ": " + failed.what);
  } catch (const std::exception& error) {
    return api.fail(std::string("lilliput.") + name + ": " + error.what());
  }
}

Status create(const Operation* op, const void* const* table, const void* info, void** kernel) {
  const Api api{table};
  const Kind& kind = kind_of(op);
  return guarded(api, kind.name, [&] { *kernel = new Made{api, kind.name, kind.make(api, info)}; });
}

Status compute(void* kernel, void* context) {
  const Made& made = *static_cast<const Made*>(kernel);
  return guarded(made.api, made.name, [&] { made.node->compute(context); });
}

// A runtime without checked calls takes errors as exceptions, as its own C++ interface throws them.
void thrown(const Api& api, Status status) {
  if (status == nullptr) return;
  const std::string what = reinterpret_cast<const char* (*)(Status)>(const_cast<void*>(api.table[error_message]))(status);
  reinterpret_cast<void (*)(Status)>(const_cast<void*>(api.table[release_status]))(status);
  throw std::runtime_error(what);
}

void* create_or_throw(const Operation* op, const void* const* table, const void* info) {
  void* kernel = nullptr;
  thrown({table}, create(op, table, info, &kernel));
  return kernel;
}

void compute_or_throw(void* kernel, void* context) { thrown(static_cast<Made*>(kernel)->api, compute(kernel, context)); }

void destroy(void* kernel) { delete static_cast<Made*>(kernel); }

Registered registered(const Kind& kind, uint32_t version) {
  Registered op{};
  op.version = version;
  op.name = [](const Operation* o) { return kind_of(o).name; };
  op.provider = [](const Operation*) { return "CPUExecutionProvider"; };
  op.input_type = [](const Operation* o, size_t i) { return std::abs(kind_of(o).inputs.at(i)); };
  op.inputs = [](const Operation* o) { return kind_of(o).inputs.size(); };
  op.output_type = [](const Operation* o, size_t) { return kind_of(o).output; };
  op.outputs = [](const Operation*) { return static_cast<size_t>(1); };
  op.destroy = destroy;
  op.input_kind = [](const Operation* o, size_t i) { return kind_of(o).inputs.at(i) < 0 ? 1 : 0; };
  op.output_kind = [](const Operation*, size_t) { return 0; };
  op.input_memory = [](const Operation*, size_t) { return 0; };
  op.variadic_input_least = [](const Operation*) { return 1; };
  op.variadic_input_alike = [](const Operation*) { return 1; };
  op.variadic_output_least = [](const Operation*) { return 1; };
  op.variadic_output_alike = [](const Operation*) { return 1; };
  op.create = create_or_throw;
  op.compute = compute_or_throw;
  op.create_checked = create;
  op.compute_checked = compute;
  op.kind = &kind;
  return op;
}

// The runtime keeps pointers to these for as long as a session lives.
std::vector<Registered>& operations(uint32_t version) {
  static std::vector<Registered> all = [version] {
    std::vector<Registered> made;
    for (const Kind& kind : kinds()) made.push_back(registered(kind, version));
    return made;
  }();
  return all;
}

}  // namespace
}  // namespace ort

LILLIPUT_EXPORT ort::Status RegisterCustomOps(void* options, const ort::ApiBase* base) {
  using namespace ort;
  const bool oldest = std::strncmp(base->version(), "1.15.", 5) == 0;
  const uint32_t version = oldest ? kOldest : kVersion;
  const void* const* table = base->get(version);
  if (table == nullptr) return nullptr;  // the runtime has said why: it is older than this interface
  const Api api{table};
  return guarded(api, "RegisterCustomOps", [&] {
    void* domain = nullptr;
    api.call(create_domain, "lilliput", &domain);
    for (Registered& op : operations(version)) api.call(add_to_domain, domain, static_cast<const Operation*>(&op));
    api.call(add_domain, options, domain);
  });
}
