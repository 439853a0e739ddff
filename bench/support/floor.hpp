// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <initializer_list>

namespace benchmarks {

/// What a kernel cannot do without: bytes from and to memory, each once, and multiplications and additions of matrix
/// products.
struct work {
  double bytes = 0.0, flops = 0.0;
};

/// What a device was seen to do, per second. Bytes read and bytes written both count.
struct device_rates {
  double copied_bytes = 0.0;  ///< a copy that is far larger than the caches
  double flops = 0.0;         ///< bf16 with fp32 sums: the faster of cuBLAS and mma.sync
  double mma_flops = 0.0;     ///< mma.sync alone
};

/// Seconds that kernels run one after the other must take: each the longer of its memory and its arithmetic.
inline double floor_seconds(std::initializer_list<work> kernels, double bytes_per_second, double flops_per_second) {
  double seconds = 0.0;
  for (work const& kernel : kernels)
    seconds += std::max(kernel.bytes / bytes_per_second, kernel.flops / flops_per_second);
  return seconds;
}

/// One KV head of one layer and sequence at the moment of an eviction, `rows` times.
struct row_extents {
  double rows;
  double tokens, budget, interval;  ///< tokens = budget + interval
  double group = 4, head_dim = 128, element_bytes = 2;
  double vectors = 2;  ///< of a token: its key and its value, or a latent row that is both

  [[nodiscard]] double keys() const { return tokens * head_dim * element_bytes; }
  [[nodiscard]] double queries(double count) const { return group * count * head_dim * element_bytes; }
  [[nodiscard]] double column() const { return tokens * group * 4; }  ///< of one statistic
  [[nodiscard]] double logits(double count) const { return 2 * group * count * tokens * head_dim; }
};

/// What scores are made from.
struct scorer_reads {
  double queries = 0;  ///< per query head
  bool values = false;
  double carried = 0;  ///< statistics that are read and written back
  bool judge = false;  ///< 2 D + 8 g inputs, 16 hidden units; weights in two bf16 terms
};

/// Log-sum-exp of each query of the window.
inline work lse_work(row_extents const& row) {
  return {row.rows * (row.queries(row.interval) + row.keys() + row.group * row.interval * 4),
          row.rows * row.logits(row.interval)};
}

/// `statistics` columns of the window, written to memory.
inline work observe_work(row_extents const& row, double statistics) {
  work const pass = lse_work(row);
  return {pass.bytes + row.rows * statistics * row.column(), pass.flops};
}

/// From keys, values and queries to a score per token, with no statistic in memory but the carried ones.
inline work score_work(row_extents const& row, scorer_reads const& reads) {
  double const lse = reads.queries > 0 ? row.group * reads.queries * 4 : 0;
  double const inputs = 2 * row.head_dim + 8 * row.group;
  return {row.rows * (row.queries(reads.queries) + lse + row.keys() * (reads.values ? row.vectors : 1) +
                      2 * reads.carried * row.column() + row.tokens * 4),
          row.rows * (row.logits(reads.queries) + (reads.judge ? 2 * 2 * row.tokens * inputs * 16 : 0))};
}

/// Scores in, the lists of kept and evicted tokens out.
inline work select_work(double rows, double tokens) { return {rows * tokens * 8, 0}; }

/// Keys, values, positions and carried statistics of the tokens that move, read and written.
inline work move_work(row_extents const& row, double moved, double carried) {
  double const token = row.vectors * row.head_dim * row.element_bytes + 4 + carried * row.group * 4;
  return {row.rows * moved * token * 2, 0};
}

inline work operator+(work const& a, work const& b) { return {a.bytes + b.bytes, a.flops + b.flops}; }

}  // namespace benchmarks
