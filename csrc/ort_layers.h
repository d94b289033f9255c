// The operations of domain `lilliput`, as ONNX Runtime asks for them.
#pragma once

#include <memory>

#include "ort_abi.h"

namespace ort {

// A node: made once, computed by any number of threads.
struct Node {
  virtual ~Node() = default;
  virtual void compute(void* context) const = 0;
};

// One row an operation: its name, its inputs (the first is a tensor of the graph, the others are initializers; one whose
// element is negative may be left out), its output, and how a node is made.
struct Kind {
  const char* name;
  std::vector<int> inputs;
  int output;
  std::unique_ptr<Node> (*make)(const Api& api, const void* info);
};

const std::vector<Kind>& kinds();

}  // namespace ort
