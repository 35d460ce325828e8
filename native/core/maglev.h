// SPDX-License-Identifier: Apache-2.0
// Cells of a region from weighted backends, one function for each algorithm of DESIGN.md section 2. Pure: no kernel, no state.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace lb {

struct WeightedBackend {
  uint32_t index;     // backend index, what a cell names
  uint32_t weight;    // at least 1
  uint64_t identity;  // hash of address and port: the same on every node, whatever the order
};

// Number of cells of a Maglev table for `count` backends: a prime, few coarse steps, so that tables keep their length through most changes.
uint32_t maglev_length(size_t count);
// Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer", NSDI 2016, section 3.4, with weights as turns.
std::vector<uint32_t> maglev_cells(std::span<const WeightedBackend> backends);

// Each backend as often as its weight says (reduced by the greatest common divisor; beyond 4,096 cells by largest remainder).
std::vector<uint32_t> random_cells(std::span<const WeightedBackend> backends);
// The same, smoothly interleaved.
std::vector<uint32_t> round_robin_cells(std::span<const WeightedBackend> backends);

uint64_t endpoint_identity(const uint32_t address[4], uint16_t port_be, int family);

}  // namespace lb
