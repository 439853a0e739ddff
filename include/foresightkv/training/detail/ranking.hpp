// SPDX-License-Identifier: Apache-2.0
#pragma once

// Counting the ordered pairs of one row that the ranking hinge acts on. Everything here is an integer: the
// gradient of the loss is a count times a factor, so every form and every thread count gives the same bits.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <foresightkv/detail/host/attention.hpp>
#include <foresightkv/detail/order_key.hpp>
#include <foresightkv/detail/random.hpp>
#include <foresightkv/training/hinge_config.hpp>
#include <foresightkv/workspace.hpp>
#include <limits>
#include <type_traits>
#include <utility>

namespace foresightkv::inline v0::detail::host {

/// From this many candidates on sorting beats comparing all pairs. Measured on Zen 5 (g++ 12 -O3, one thread,
/// random scores): 268 against 304 us at n = 4096 with AVX-512, 216 against 222 us at 3072 with AVX2, 60
/// against 71 us at 1024.
template <class Isa>
inline constexpr int sorted_pairs_from = std::is_same_v<Isa, isa_avx512> ? 4608
                                         : std::is_same_v<Isa, isa_avx2> ? 3072
                                                                         : 1280;

/// Memory of one thread for rows of n candidates.
template <class Real>
struct ranking_scratch {
  std::uint64_t* entries;  // [n] label key and candidate, ascending
  std::uint64_t* spare;    // [n]
  Real* scores;            // [n + 16] in label order
  std::int32_t* begin;     // [n] of the group of equal labels, in label order
  std::int32_t* end;       // [n]
  std::int32_t* net;       // [n + 16] in label order
  std::int32_t* counts;    // [n + 1]
  std::int32_t* others;    // [n + 1]
  std::int32_t* gradient;  // [n] net counts in candidate order

  static ranking_scratch take(arena& memory, int candidates) {
    auto const n = static_cast<std::size_t>(candidates);
    constexpr std::size_t vector = 16;
    ranking_scratch all{};
    all.entries = memory.take<std::uint64_t>(n);
    all.spare = memory.take<std::uint64_t>(n);
    all.scores = memory.take<Real>(n + vector);
    all.begin = memory.take<std::int32_t>(n);
    all.end = memory.take<std::int32_t>(n);
    all.net = memory.take<std::int32_t>(n + vector);
    all.counts = memory.take<std::int32_t>(n + 1);
    all.others = memory.take<std::int32_t>(n + 1);
    all.gradient = memory.take<std::int32_t>(n);
    return all;
  }
};

/// What the counting of one row found.
struct pair_counts {
  std::int64_t pairs = 0;   // ordered pairs of different labels
  std::int64_t active = 0;  // those of them that were looked at and lie inside the margin
};

using training::unlabelled;

constexpr std::uint64_t entry_of(std::uint32_t key, int index) {
  return std::uint64_t{key} << 32 | static_cast<std::uint32_t>(index);
}
constexpr int entry_index(std::uint64_t entry) { return static_cast<int>(entry & 0xffffffffu); }

/// Sorts by the upper 32 bits; entries of equal keys stay in order, which is that of the lower 32. The result
/// is in `entries`; digits that all entries share cost no pass.
inline void sort_entries(std::uint64_t*& entries, std::uint64_t*& spare, int n) {
  constexpr int digits = 4, values = 256;
  std::uint32_t places[digits][values] = {};
  for (int i = 0; i < n; ++i)
    for (int d = 0; d < digits; ++d) ++places[d][entries[i] >> (32 + 8 * d) & 255];
  for (int d = 0; d < digits; ++d) {
    std::uint32_t* const place = places[d];
    if (n == 0 || place[entries[0] >> (32 + 8 * d) & 255] == static_cast<std::uint32_t>(n)) continue;
    std::uint32_t before = 0;
    for (int value = 0; value < values; ++value) before += std::exchange(place[value], before);
    for (int i = 0; i < n; ++i) spare[place[entries[i] >> (32 + 8 * d) & 255]++] = entries[i];
    std::swap(entries, spare);
  }
}

/// Puts the row in ascending order of labels and marks the groups of equal ones. Returns the first place that
/// has a label: what lies before it (NaN) takes part in no pair.
template <class Real>
int order_by_label(Real const* scores, float const* labels, int n, ranking_scratch<Real>& row, pair_counts& found) {
  for (int i = 0; i < n; ++i) row.entries[i] = entry_of(order_key(labels[i]), i);
  sort_entries(row.entries, row.spare, n);
  for (int k = 0; k < n; ++k) row.scores[k] = scores[entry_index(row.entries[k])];
  int first = 0;
  while (first < n && row.entries[first] >> 32 == unlabelled) ++first;
  for (int k = first; k < n;) {
    int end = k + 1;
    while (end < n && row.entries[end] >> 32 == row.entries[k] >> 32) ++end;
    found.pairs += std::int64_t{end - k} * (n - end);
    std::fill(row.begin + k, row.begin + end, k);
    std::fill(row.end + k, row.end + end, end);
    k = end;
  }
  return first;
}

/// Adds to net[k] the number of places j in [from, to) with scores[j] - scores[k] < margin, takes 1 from
/// net[j] for each, and returns the number.
[[gnu::always_inline]] inline int compare_one(float const* scores, int k, int from, int to, float margin,
                                              std::int32_t* net) {
  int active = 0;
  float const low = scores[k];
  for (int j = from; j < to; ++j) {
    int const inside = scores[j] - low < margin ? 1 : 0;
    net[j] -= inside;
    active += inside;
  }
  net[k] += active;
  return active;
}

/// Compares every pair of different labels: each vector of higher labels against a tile of lower ones. The
/// score of the pair's higher label is less than margin above that of the lower one: +1 for the lower one, -1
/// for the higher.
template <class Isa>
[[gnu::always_inline]] inline std::int64_t compare_pairs(ranking_scratch<float> const& row, int first, int n,
                                                         float margin) {
  constexpr int tile = std::is_same_v<Isa, isa_avx512> ? 8 : 4;
  using floats = typename Isa::floats;
  using ints = typename Isa::ints;
  float* const scores = row.scores;
  std::int32_t* const net = row.net;
  floats const inside_from = floats{} + margin;
  // Behind the last one stands a score that no margin reaches.
  for (int i = 0; i < Isa::lanes; ++i) scores[n + i] = std::numeric_limits<float>::infinity();
  std::fill_n(net, n + Isa::lanes, 0);
  std::int64_t active = 0;
  int k = first;
  for (; k + tile <= n && row.end[k] < n; k += tile) {
    int const common = row.end[k + tile - 1];
    for (int r = 0; r < tile; ++r) active += compare_one(scores, k + r, row.end[k + r], common, margin, net);
    ints sums[tile] = {};
    for (int j = common; j < n; j += Isa::lanes) {
      floats high;
      load<Isa>(scores + j, high);
      ints left = reinterpret_cast<unaligned<ints> const*>(net + j)->value;
      unrolled<tile>([&](auto r) __attribute__((always_inline)) {
        ints const inside = high - scores[k + r] < inside_from;  // -1 or 0
        sums[r] -= inside;
        left += inside;
      });
      reinterpret_cast<unaligned<ints>*>(net + j)->value = left;
    }
    for (int r = 0; r < tile; ++r) {
      int sum = 0;
      for (int lane = 0; lane < Isa::lanes; ++lane) sum += sums[r][lane];
      net[k + r] += sum;
      active += sum;
    }
  }
  for (; k < n; ++k) active += compare_one(scores, k, row.end[k], n, margin, net);
  return active;
}

/// A Fenwick tree over the places of a row.
struct place_counts {
  std::int32_t* tree;  // [n + 1]
  int n;

  void clear() const { std::fill_n(tree, n + 1, 0); }
  void insert(int place) const {
    for (int i = place + 1; i <= n; i += i & -i) ++tree[i];
  }
  /// Inserted places below `place`.
  [[nodiscard]] int below(int place) const {
    int sum = 0;
    for (int i = place; i > 0; i &= i - 1) sum += tree[i];
    return sum;
  }
};

/// The places first, ..., n - 1 of label order in ascending order of scores; the order of equal scores is of
/// no account.
inline void order_by_score(ranking_scratch<float>& row, int first, int n) {
  for (int k = first; k < n; ++k) row.entries[k - first] = entry_of(order_key(row.scores[k]), k);
  sort_entries(row.entries, row.spare, n - first);
}
inline void order_by_score(ranking_scratch<double>& row, int first, int n) {
  for (int k = first; k < n; ++k) row.entries[k - first] = entry_of(0, k);
  std::sort(row.entries, row.entries + (n - first), [&](std::uint64_t left, std::uint64_t right) {
    return row.scores[entry_index(left)] < row.scores[entry_index(right)];
  });
}

/// The same counts in O(n log n). In ascending order of scores, the places that lie less than margin above
/// the current one, and those that lie at least margin below it, are prefixes that only grow: rounding keeps
/// the order, so the very comparison of `compare_pairs` decides where they end.
template <class Real>
std::int64_t sort_pairs(ranking_scratch<Real>& row, int first, int n, Real margin) {
  // The labels' order is still needed at the end, and the next sort must not overwrite it.
  for (int k = 0; k < n; ++k) row.gradient[k] = entry_index(row.entries[k]);
  order_by_score(row, first, n);
  place_counts const near{row.counts, n}, far{row.others, n};
  near.clear();
  far.clear();
  int const count = n - first;
  std::fill_n(row.net, first, 0);
  std::int64_t active = 0;
  for (int i = 0, reached = 0, left = 0; i < count; ++i) {
    int const k = entry_index(row.entries[i]);
    Real const score = row.scores[k];
    for (; reached < count; ++reached) {
      int const other = entry_index(row.entries[reached]);
      if (!(row.scores[other] - score < margin)) break;
      near.insert(other);
    }
    for (; left < count; ++left) {
      int const other = entry_index(row.entries[left]);
      if (score - row.scores[other] < margin) break;
      far.insert(other);
    }
    int const higher = reached - near.below(row.end[k]);
    int const lower = row.begin[k] - first - far.below(row.begin[k]);
    row.net[k] = higher - lower;
    active += higher;
  }
  return active;
}

/// Pairs (i, i + shift) for i in [from, to): adds their counts to `net`, returns how many are inside the
/// margin.
template <class Real>
[[gnu::always_inline]] inline int compare_shifted(Real const* scores, std::uint32_t const* keys, int from, int to,
                                                  int shift, Real margin, std::int32_t* net, std::int32_t* signs) {
  int active = 0;
  for (int i = from; i < to; ++i) {
    std::uint32_t const mine = keys[i], other = keys[i + shift];
    int const below = static_cast<int>(other > mine) & static_cast<int>(mine != unlabelled) &
                      static_cast<int>(scores[i + shift] - scores[i] < margin);
    int const above = static_cast<int>(mine > other) & static_cast<int>(other != unlabelled) &
                      static_cast<int>(scores[i] - scores[i + shift] < margin);
    signs[i] = below - above;
    active += below + above;
  }
  // Two loops of their own: the two places of neighbouring pairs overlap where the shift is short.
  for (int i = from; i < to; ++i) net[i] += signs[i];
  for (int i = from; i < to; ++i) net[i + shift] -= signs[i];
  return active;
}

/// The two comparisons behind calls, each compiled once per instruction set and translation unit.
template <class Isa>
struct ranking_kernels {
  [[gnu::noinline]] static std::int64_t compare(ranking_scratch<float> const& row, int first, int n, float margin) {
    std::int64_t active = 0;
    with_isa<Isa>([&](auto isa)
                      __attribute__((always_inline)) { active = compare_pairs<decltype(isa)>(row, first, n, margin); });
    return active;
  }
  template <class Real>
  [[gnu::noinline]] static int shifted(Real const* scores, std::uint32_t const* keys, int from, int to, int shift,
                                       Real margin, ranking_scratch<Real> const& row) {
    int active = 0;
    with_isa<Isa>([&](auto) __attribute__((always_inline)) {
      active = compare_shifted(scores, keys, from, to, shift, margin, row.gradient, row.net);
    });
    return active;
  }
};

/// Net counts of all pairs of one row in `row.gradient`, in candidate order.
template <class Isa, class Real>
[[gnu::noinline]] pair_counts count_all_pairs(Real const* scores, float const* labels, int n, Real margin,
                                              ranking_scratch<Real>& row, int sorted_from = sorted_pairs_from<Isa>) {
  pair_counts found;
  int const first = order_by_label(scores, labels, n, row, found);
  if constexpr (std::is_same_v<Real, float>) {
    if (n < sorted_from) {
      found.active = ranking_kernels<Isa>::compare(row, first, n, margin);
      for (int k = 0; k < n; ++k) row.gradient[entry_index(row.entries[k])] = row.net[k];
      return found;
    }
  }
  found.active = sort_pairs(row, first, n, margin);
  for (int k = 0; k < n; ++k) row.counts[row.gradient[k]] = row.net[k];
  std::copy_n(row.counts, n, row.gradient);
  return found;
}

/// Net counts of the pairs at `count` cyclic distances, drawn from 1, ..., n / 2, in `row.gradient`.
template <class Isa, class Real>
[[gnu::noinline]] pair_counts count_shifted_pairs(Real const* scores, float const* labels, int n, Real margin,
                                                  random_counter at, std::uint64_t seed, int count,
                                                  ranking_scratch<Real>& row) {
  pair_counts found;
  order_by_label(scores, labels, n, row, found);
  auto* const keys = reinterpret_cast<std::uint32_t*>(row.begin);
  for (int i = 0; i < n; ++i) keys[i] = order_key(labels[i]);
  std::fill_n(row.gradient, n, 0);
  draw_distances(at, seed, n / 2, count, row.counts);
  for (int d = 0; d < count; ++d) {
    int const distance = row.counts[d];
    found.active += ranking_kernels<Isa>::shifted(scores, keys, 0, n - distance, distance, margin, row);
    // Past the end the row begins again; half the row away every pair has been met already.
    if (2 * distance < n)
      found.active += ranking_kernels<Isa>::shifted(scores, keys, n - distance, n, distance - n, margin, row);
  }
  return found;
}

}  // namespace foresightkv::inline v0::detail::host
