// SPDX-License-Identifier: Apache-2.0
#include "maglev.h"

#include <algorithm>
#include <numeric>
#include <queue>

#include "../../bpf/include/abi.h"

namespace lb {
namespace {

constexpr uint32_t kExactCells = 4096;
constexpr uint32_t kCellsPerBackend = 128;
constexpr uint64_t kSmoothSteps = 1 << 20;  // a few milliseconds

// Each is the largest prime for which head, cells and a list of that many members fill whole powers of two of lines.
constexpr struct {
  uint32_t backends, length;
} kMaglevSteps[] = {{10, 2029}, {40, 8147}, {160, 16217}, {640, 64891}, {2560, 259577}, {10240, 1038329}, {40960, 4153333}};

std::vector<WeightedBackend> by_identity(std::span<const WeightedBackend> backends) {
  std::vector<WeightedBackend> sorted(backends.begin(), backends.end());
  std::sort(sorted.begin(), sorted.end(), [](const auto& a, const auto& b) { return a.identity < b.identity; });
  return sorted;
}

// How many cells each backend gets.
std::vector<uint32_t> shares(std::span<const WeightedBackend> backends) {
  uint32_t divisor = 0;
  for (const auto& b : backends) divisor = std::gcd(divisor, b.weight);
  std::vector<uint32_t> share;
  uint64_t sum = 0;
  share.reserve(backends.size());
  for (const auto& b : backends) {
    share.push_back(b.weight / divisor);
    sum += share.back();
  }
  if (sum <= kExactCells) return share;

  const uint64_t total = std::max<uint64_t>(kExactCells, uint64_t{kCellsPerBackend} * backends.size());
  if (sum <= total) return share;
  std::vector<std::pair<uint64_t, size_t>> remainders;  // largest first
  uint64_t given = 0;
  for (size_t i = 0; i < backends.size(); i++) {
    const uint64_t exact = share[i] * total;
    const uint32_t whole = static_cast<uint32_t>(std::max<uint64_t>(1, exact / sum));
    remainders.emplace_back(exact / sum ? exact % sum : 0, i);
    share[i] = whole;
    given += whole;
  }
  std::stable_sort(remainders.begin(), remainders.end(), [](const auto& a, const auto& b) { return a.first > b.first; });
  for (size_t k = 0; given < total && k < remainders.size(); k++, given++) share[remainders[k].second]++;
  return share;
}

}  // namespace

uint64_t endpoint_identity(const uint32_t address[4], uint16_t port_be, int family) {
  uint64_t h = lb_mix64(static_cast<uint64_t>(family) << 16 | port_be);
  h = lb_mix64(h ^ (static_cast<uint64_t>(address[0]) << 32 | address[1]));
  return lb_mix64(h ^ (static_cast<uint64_t>(address[2]) << 32 | address[3]));
}

uint32_t maglev_length(size_t count) {
  if (count <= 1) return static_cast<uint32_t>(count);
  for (const auto& step : kMaglevSteps)
    if (count <= step.backends) return step.length;
  return kMaglevSteps[std::size(kMaglevSteps) - 1].length;
}

namespace {

struct Turn {
  uint32_t index, position, skip;
  uint64_t weight;
};

// In round r (from 1 on) every backend has had 1 + floor((r - 1) * weight / most) turns: the first round gives everybody a cell.
uint64_t turns_until(const Turn& t, uint64_t round, uint64_t most) { return 1 + (round - 1) * t.weight / most; }

// The first `count` turns of all rounds, as positions in `turns`: by round, and within a round in the order of `turns`. Sorted by counting, as
// walking the rounds would cost a look at every backend in each, and with one of a large weight there are nearly as many rounds as turns.
std::vector<uint32_t> order_of_turns(const std::vector<Turn>& turns, uint64_t most, uint32_t count) {
  uint64_t low = 1, high = count;  // rounds; each has at least one turn
  while (low < high) {
    const uint64_t middle = (low + high) / 2;
    uint64_t had = 0;
    for (const auto& t : turns) had += turns_until(t, middle, most);
    if (had >= count)
      high = middle;
    else
      low = middle + 1;
  }
  const uint64_t rounds = low;
  auto each = [&](auto visit) {
    for (uint32_t i = 0; i < turns.size(); i++) {
      const uint64_t had = turns_until(turns[i], rounds, most);
      for (uint64_t k = 0; k < had; k++) visit(i, 1 + (k * most + turns[i].weight - 1) / turns[i].weight);
    }
  };
  std::vector<uint32_t> first(rounds + 2, 0);  // of each round, in the result
  each([&](uint32_t, uint64_t round) { first[round + 1]++; });
  for (uint64_t r = 1; r < first.size(); r++) first[r] += first[r - 1];
  std::vector<uint32_t> order(first[rounds + 1]);
  each([&](uint32_t i, uint64_t round) { order[first[round]++] = i; });
  order.resize(count);  // the last round is cut
  return order;
}

}  // namespace

std::vector<uint32_t> maglev_cells(std::span<const WeightedBackend> unsorted) {
  const uint32_t length = maglev_length(unsorted.size());
  if (unsorted.size() <= 1) return unsorted.empty() ? std::vector<uint32_t>{} : std::vector<uint32_t>{unsorted[0].index};
  std::vector<Turn> turns;
  uint64_t most = 0;
  for (const auto& b : by_identity(unsorted)) {
    const uint64_t second = lb_mix64(b.identity ^ 0x9e3779b97f4a7c15ull);
    turns.push_back({b.index, static_cast<uint32_t>(b.identity % length), static_cast<uint32_t>(second % (length - 1) + 1), b.weight});
    most = std::max<uint64_t>(most, b.weight);
  }
  std::vector<uint32_t> cells(length, 0);  // 0 is no backend's index
  for (const uint32_t i : order_of_turns(turns, most, length)) {
    Turn& t = turns[i];
    while (cells[t.position]) {
      t.position += t.skip;
      if (t.position >= length) t.position -= length;
    }
    cells[t.position] = t.index;
  }
  return cells;
}

std::vector<uint32_t> random_cells(std::span<const WeightedBackend> backends) {
  const auto share = shares(backends);
  std::vector<uint32_t> cells;
  for (size_t i = 0; i < backends.size(); i++) cells.insert(cells.end(), share[i], backends[i].index);
  return cells;
}

// nginx's smooth weighted round robin: every step costs a look at every backend.
static std::vector<uint32_t> smooth_cells(std::span<const WeightedBackend> backends, const std::vector<uint32_t>& share, uint64_t total) {
  std::vector<uint32_t> cells;
  std::vector<int64_t> current(backends.size(), 0);
  cells.reserve(total);
  while (cells.size() < total) {
    size_t best = 0;
    for (size_t i = 0; i < backends.size(); i++) {
      current[i] += share[i];
      if (current[i] > current[best]) best = i;
    }
    current[best] -= static_cast<int64_t>(total);
    cells.push_back(backends[best].index);
  }
  return cells;
}

// As smooth, in logarithmic steps: each occurrence is due at the middle of its stretch, the earliest due goes next.
static std::vector<uint32_t> earliest_due_cells(std::span<const WeightedBackend> backends, const std::vector<uint32_t>& share,
                                                uint64_t total) {
  struct Due {
    uint64_t numerator;  // 2k + 1
    uint32_t share;
    uint32_t order;
  };
  auto later = [](const Due& a, const Due& b) {
    const uint64_t left = a.numerator * b.share, right = b.numerator * a.share;
    return left != right ? left > right : a.order > b.order;
  };
  std::priority_queue<Due, std::vector<Due>, decltype(later)> queue(later);
  for (uint32_t i = 0; i < backends.size(); i++) queue.push({1, share[i], i});
  std::vector<uint32_t> cells;
  cells.reserve(total);
  while (cells.size() < total) {
    Due due = queue.top();
    queue.pop();
    cells.push_back(backends[due.order].index);
    due.numerator += 2;
    if (due.numerator < 2ull * due.share) queue.push(due);
  }
  return cells;
}

std::vector<uint32_t> round_robin_cells(std::span<const WeightedBackend> backends) {
  const auto share = shares(backends);
  const uint64_t total = std::accumulate(share.begin(), share.end(), uint64_t{0});
  return total * backends.size() <= kSmoothSteps ? smooth_cells(backends, share, total) : earliest_due_cells(backends, share, total);
}

}  // namespace lb
