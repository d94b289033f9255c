#pragma once

#include <nanobind/nanobind.h>

// Python's view of layers that are packed once and run often.
void bind_layers(nanobind::module_& m);
