// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <foresightkv/detail/kernels/collectives.hpp>
#include <foresightkv/detail/kernels/launches.hpp>
#include <foresightkv/detail/kernels/rows.hpp>
#include <foresightkv/detail/order_key.hpp>
#include <foresightkv/detail/random.hpp>
#include <foresightkv/training/hinge_config.hpp>
#include <foresightkv/workspace.hpp>

// The ranking hinge (training/ranking_hinge.hpp) as kernels. All that the gradient is made of are integer counts, so
// that it has the host's bits.

namespace foresightkv::inline v0::detail::kernels {

using training::hinge_config, training::hinge_result, training::hinge_row, training::ranking_rows, training::unlabelled;

/// What the kernels of one call hand to each other.
struct hinge_memory {
  hinge_row* rows = nullptr;          // [rows]
  std::int32_t* net = nullptr;        // [rows][candidates] pairs that pull a score up, less those that push it down
  std::int32_t* distances = nullptr;  // [rows][num_distances]
  std::int32_t* num_counted = nullptr;

  static hinge_memory take(arena& memory, int rows, int candidates, hinge_config const& config) {
    auto const count = static_cast<std::size_t>(rows);
    hinge_memory all;
    all.rows = memory.take<hinge_row>(count);
    all.net = memory.take<std::int32_t>(count * static_cast<std::size_t>(candidates));
    all.distances =
        memory.take<std::int32_t>(count * static_cast<std::size_t>(training::num_distances(config, candidates)));
    all.num_counted = memory.take<std::int32_t>(1);
    return all;
  }
};

/// Sum of doubles over a block, in a fixed order; every thread gets it. `partial` is free again after a sync.
template <class Context>
FORESIGHTKV_HOST_DEVICE double block_sum(Context const& c, double (&partial)[Context::threads / warp_size],
                                         double value, int number) {
  value = warp_sum(c, value);
  if (c.rank() % warp_size == 0) partial[c.rank() / warp_size] = value;
  c.sync(number);
  value = 0.0;
  for (double const other : partial) value += other;
  return value;
}

/// Counts the pairs of every row and weighs its loss. A block per row, a candidate per thread against all others.
template <class Real>
struct hinge_count_kernel {
  static constexpr int threads = 256;
  enum sync : int { finite_asked, labels_asked, distances_drawn, pairs_summed, loss_summed };

  hinge_config config{};
  ranking_rows<Real> input{};
  hinge_memory memory{};

  template <class Context>
  struct shared {
    int not_finite[Context::threads / warp_size];
    int differ[Context::threads / warp_size];
    typename Context::template scan<std::uint64_t> scan;
    double partial[Context::threads / warp_size];
  };

  template <class Context>
  FORESIGHTKV_HOST_DEVICE void operator()(Context const& c, shared<Context>& own) const {
    int const n = input.candidates;
    Real const* const scores = part_of(input.scores, c.block(), n);
    float const* const labels = part_of(input.labels, c.block(), n);
    hinge_row row{0.0, 0, 0, false, !block_any(c, own.not_finite, any_not_finite(c, scores), finite_asked)};
    row.counts = block_any(c, own.differ, any_differs(c, labels), labels_asked) && row.finite;
    if (row.counts) {
      counts const mine = compare(c, scores, labels);
      std::uint64_t pairs = 0, active = 0;
      (void)c.exclusive_sum(own.scan, mine.pairs, pairs);
      c.sync(pairs_summed);  // the scan's scratch serves again
      (void)c.exclusive_sum(own.scan, mine.active, active);
      row.pairs = static_cast<std::int64_t>(pairs);
      row.active = static_cast<std::int64_t>(active);
      double const sum = block_sum(c, own.partial, mine.weighed, loss_summed);
      double const loss = static_cast<double>(static_cast<Real>(config.margin)) * static_cast<double>(active) + sum;
      row.loss = factor(row) * (loss > 0.0 ? loss : 0.0);
    }
    if (c.rank() == 0) memory.rows[c.block()] = row;
  }

  [[nodiscard]] FORESIGHTKV_HOST_DEVICE double factor(hinge_row const& row) const {
    return training::pairs_per_compared(config, input.candidates) / static_cast<double>(row.pairs);
  }

 private:
  struct counts {
    std::uint64_t pairs = 0, active = 0;
    double weighed = 0.0;  // net counts times scores
  };

  template <class Context>
  FORESIGHTKV_HOST_DEVICE bool any_not_finite(Context const& c, Real const* scores) const {
    bool found = false;
    for (int i = c.rank(); i < input.candidates; i += threads) found = found || !is_finite(scores[i]);
    return found;
  }
  /// Whether a label of this thread differs from the row's first one.
  template <class Context>
  FORESIGHTKV_HOST_DEVICE bool any_differs(Context const& c, float const* labels) const {
    int first = 0;
    while (first < input.candidates && order_key(labels[first]) == unlabelled) ++first;
    bool found = false;
    for (int i = first + c.rank(); i < input.candidates; i += threads) {
      std::uint32_t const key = order_key(labels[i]);
      found = found || (key != unlabelled && key != order_key(labels[first]));
    }
    return found;
  }

  template <class Context>
  FORESIGHTKV_HOST_DEVICE counts compare(Context const& c, Real const* scores, float const* labels) const {
    int const n = input.candidates;
    int const drawn = training::num_distances(config, n);
    std::int32_t* const distances = part_of(memory.distances, c.block(), drawn);
    if (drawn > 0) {
      random_counter const at{{0, config.first_row + static_cast<std::uint32_t>(c.block()), config.step, 0}};
      if (c.rank() == 0) draw_distances(at, config.seed, n / 2, drawn, distances);
      c.sync(distances_drawn);
    }
    counts all;
    std::int32_t* const net = part_of(memory.net, c.block(), n);
    for (int i = c.rank(); i < n; i += threads) {
      std::uint32_t const key = order_key(labels[i]);
      int pulls = 0;
      auto const meet = [&](int j) {
        std::uint32_t const other = order_key(labels[j]);
        if (key == unlabelled || other == unlabelled || key == other) return;
        bool const lower = key < other;
        Real const ahead = lower ? scores[j] - scores[i] : scores[i] - scores[j];
        bool const inside = ahead < static_cast<Real>(config.margin);
        pulls += inside ? (lower ? 1 : -1) : 0;
        all.active += lower && inside;
      };
      for (int j = 0; j < n; ++j) {
        std::uint32_t const other = order_key(labels[j]);
        all.pairs += key != unlabelled && other > key;
        if (drawn == 0) meet(j);
      }
      for (int d = 0; d < drawn; ++d) {
        meet((i + distances[d]) % n);
        if (2 * distances[d] < n) meet((i + n - distances[d]) % n);  // half the row away both are one
      }
      net[i] = pulls;
      all.weighed += (static_cast<double>(scores[i]) - static_cast<double>(scores[0])) * pulls;
    }
    return all;
  }
};

/// Adds the rows up. One block.
struct hinge_result_kernel {
  static constexpr int threads = 256;
  enum sync : int { counted, paired, weighed };

  hinge_memory memory{};
  int num_rows = 0;
  hinge_result* result = nullptr;

  template <class Context>
  struct shared {
    typename Context::template scan<std::uint64_t> scan;
    double partial[Context::threads / warp_size];
  };

  template <class Context>
  FORESIGHTKV_HOST_DEVICE void operator()(Context const& c, shared<Context>& own) const {
    std::uint64_t rows = 0, pairs = 0, active = 0;  // rows that count below, rows that are not finite above
    double loss = 0.0;
    for (int r = c.rank(); r < num_rows; r += threads) {
      hinge_row const& row = memory.rows[r];
      rows += (row.finite ? 0 : std::uint64_t{1} << 32) + (row.counts ? 1 : 0);
      pairs += static_cast<std::uint64_t>(row.pairs);
      active += static_cast<std::uint64_t>(row.active);
      loss += row.loss;
    }
    auto const sum = [&](std::uint64_t mine, int number) {
      std::uint64_t all = 0;
      (void)c.exclusive_sum(own.scan, mine, all);
      c.sync(number);
      return all;
    };
    rows = sum(rows, counted);
    pairs = sum(pairs, paired);
    std::uint64_t all_active = 0;
    (void)c.exclusive_sum(own.scan, active, all_active);
    loss = block_sum(c, own.partial, loss, weighed);
    if (c.rank() != 0) return;
    auto const count = static_cast<int>(rows & 0xffffffffu);
    *memory.num_counted = count;
    *result = {count > 0 ? loss / count : 0.0, count, static_cast<int>(rows >> 32), static_cast<std::int64_t>(pairs),
               static_cast<std::int64_t>(all_active)};
  }
};

/// Counts become slopes. A block per row.
template <class Real>
struct hinge_gradient_kernel {
  static constexpr int threads = 256;

  hinge_count_kernel<Real> counted{};
  Real* gradient = nullptr;  // [rows][candidates]

  template <class Context>
  struct shared {};

  template <class Context>
  FORESIGHTKV_HOST_DEVICE void operator()(Context const& c, shared<Context>&) const {
    int const n = counted.input.candidates;
    hinge_row const row = counted.memory.rows[c.block()];
    double const factor = row.counts ? counted.factor(row) / *counted.memory.num_counted : 0.0;
    std::int32_t const* const net = part_of(counted.memory.net, c.block(), n);
    Real* const slopes = part_of(gradient, c.block(), n);
    for (int i = c.rank(); i < n; i += threads) slopes[i] = row.counts ? static_cast<Real>(net[i] * factor) : Real{0};
  }
};

template <class Exec, class Real>
status run_hinge(Exec const& exec, hinge_config const& config, ranking_rows<Real> const& input, Real* gradient,
                 hinge_result* result, workspace scratch) {
  arena arrays(scratch);
  auto const memory = hinge_memory::take(arrays, input.rows, input.candidates, config);
  hinge_count_kernel<Real> const count{config, input, memory};
  launches<Exec> run(exec);
  run(input.rows, count);
  run(1, hinge_result_kernel{memory, input.rows, result});
  if (gradient != nullptr) run(input.rows, hinge_gradient_kernel<Real>{count, gradient});
  return run.result();
}

}  // namespace foresightkv::inline v0::detail::kernels
