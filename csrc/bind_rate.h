#pragma once

#include <nanobind/nanobind.h>

// Adds rounding with the rate in mind to the module.
void bind_rate(nanobind::module_& m);
