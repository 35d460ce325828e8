// SPDX-License-Identifier: Apache-2.0
// Cells as native/core makes them. Each line of standard input: ALGORITHM ID:WEIGHT ID:WEIGHT ...; prints the ids of the cells, a line each.
#include <iostream>
#include <sstream>

#include "../../native/core/maglev.h"

int main() {
  std::string line;
  while (std::getline(std::cin, line)) {
    std::istringstream words(line);
    std::string algorithm, word;
    words >> algorithm;
    std::vector<lb::WeightedBackend> backends;
    while (words >> word) {
      const uint32_t id = static_cast<uint32_t>(std::stoul(word)), weight = static_cast<uint32_t>(std::stoul(word.substr(word.find(':') + 1)));
      const uint32_t address[4] = {__builtin_bswap32(0x0a010000 + id), 0, 0, 0};
      backends.push_back({id, weight, lb::endpoint_identity(address, __builtin_bswap16(8080), 4)});
    }
    const auto cells = algorithm == "maglev" ? lb::maglev_cells(backends) : algorithm == "random" ? lb::random_cells(backends) : lb::round_robin_cells(backends);
    for (size_t i = 0; i < cells.size(); i++) std::cout << (i ? " " : "") << cells[i];
    std::cout << "\n";
  }
}
