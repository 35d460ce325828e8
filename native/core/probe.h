// SPDX-License-Identifier: Apache-2.0
// What this kernel can do, by trying.
#pragma once

#include <string>
#include <vector>

namespace lb {

struct Feature {
  std::string name, support, minimum_kernel, needed_for, fallback;
};
struct Probe {
  std::string kernel;
  bool usable = false;
  std::vector<std::string> missing;  // sentences: what is needed and not there
  std::vector<Feature> features;
};
Probe probe_kernel();

}  // namespace lb
