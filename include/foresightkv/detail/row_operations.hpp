// SPDX-License-Identifier: Apache-2.0
#pragma once

// What row scorers and combinators have in common, written once for every backend. A backend may supply a faster
// form of the heavy ones: a function bulk_<name> with the same arguments, in the namespace of its block. The host's are
// host code: nvcc need not warn of them, a kernel never gets one.

#include <cmath>
#include <cstdint>
#include <foresightkv/element.hpp>
#include <foresightkv/execution.hpp>

namespace foresightkv::inline v0::detail {

/// Logit of a token that is left out of a softmax. Its product with log2(e) is still finite.
inline constexpr float hidden_logit = -1e38f;

/// A logit as softmax_row takes it: NaN and -inf are left out, +inf becomes a large number.
FORESIGHTKV_HOST_DEVICE constexpr float bounded_logit(float logit) {
  std::uint32_t const bits = float_bits(logit);
  if ((bits & 0x7fffffffu) > float_infinity_bits) return hidden_logit;  // by its bits: -ffast-math knows no NaN
  return logit < hidden_logit ? hidden_logit : logit > -hidden_logit ? -hidden_logit : logit;
}

/// x[0, n) = softmax of x, in place. Entries at hidden_logit get 0; all get 0 if there is no other. No NaN in x.
#if defined(__CUDACC__)
#pragma nv_exec_check_disable
#endif
template <class Block>
FORESIGHTKV_HOST_DEVICE void softmax_row(Block const& block, float* x, int n) {
  if constexpr (requires { bulk_softmax_row(block, x, n); }) {
    bulk_softmax_row(block, x, n);
  } else {
    float const largest = block.max(n, [&](int i) { return x[i]; });
    block.for_each(n, [&](int i) { x[i] = x[i] > hidden_logit ? expf(x[i] - largest) : 0.0f; });
    float const total = block.sum(n, [&](int i) { return x[i]; });
    float const factor = total > 0.0f ? 1.0f / total : 0.0f;
    block.for_each(n, [&](int i) { x[i] *= factor; });
  }
}

/// row.scratch(r)[0, keys) = largest scaled logit over the group of each of the newest `queries` queries of the
/// window; hidden_logit for a token that comes after the query, and where every query head is masked.
/// Slots must ascend in position.
#if defined(__CUDACC__)
#pragma nv_exec_check_disable
#endif
template <class Block, class Row>
FORESIGHTKV_HOST_DEVICE void window_logits(Block const& block, Row const& row, int queries, int keys) {
  if constexpr (requires { bulk_window_logits(block, row, queries, keys); }) {
    bulk_window_logits(block, row, queries, keys);
  } else {
    int const first = row.num_queries() - queries;
    block.for_each_token(keys, [&](auto const& lanes, int slot) {
      for (int r = 0; r < queries; ++r) {
        float largest = hidden_logit;
        bool const seen = row.position(slot) <= row.query_position(first + r);
        for (int j = 0; seen && j < row.group(); ++j) {
          if (row.masked(first + r, j)) continue;
          float const product =
              lanes.sum(row.key_head_dim(), [&](int dim) { return row.query(first + r, j, dim) * row.key(slot, dim); });
          float logit = product * row.softmax_scale();
          if (row.soft_cap() > 0.0f) logit = row.soft_cap() * tanhf(logit / row.soft_cap());
          logit = bounded_logit(logit);
          largest = logit > largest ? logit : largest;
        }
        lanes.store(row.scratch(r)[slot], largest);
      }
    });
  }
}

/// inverse[0, length) = 1 / |key|, and 0 for an empty slot.
template <class Block, class Row>
FORESIGHTKV_HOST_DEVICE void inverse_key_norms(Block const& block, Row const& row, float* inverse) {
  block.for_each_token(row.length(), [&](auto const& lanes, int slot) {
    auto const token = row.token(slot);
    float const norm = sqrtf(lanes.sum(token.key_head_dim(), [&](int dim) { return token.key(dim) * token.key(dim); }));
    lanes.store(inverse[slot], row.occupied(slot) ? 1.0f / (norm > 1e-8f ? norm : 1e-8f) : 0.0f);
  });
}

/// sums[0, key_head_dim) = sum of key * inverse over the tokens whose inverse is not 0.
#if defined(__CUDACC__)
#pragma nv_exec_check_disable
#endif
template <class Block, class Row>
FORESIGHTKV_HOST_DEVICE void sum_scaled_keys(Block const& block, Row const& row, float const* inverse, float* sums) {
  if constexpr (requires { bulk_sum_scaled_keys(block, row, inverse, sums); }) {
    bulk_sum_scaled_keys(block, row, inverse, sums);
  } else {
    constexpr int run = 64;  // sums of sums: the rounding error grows with the number of runs, not of tokens
    block.for_each(row.key_head_dim(), [&](int dim) {
      float total = 0.0f;
      for (int first = 0; first < row.length(); first += run) {
        int const last = first + run < row.length() ? first + run : row.length();
        float part = 0.0f;
        for (int slot = first; slot < last; ++slot)
          if (inverse[slot] != 0.0f) part += row.key(slot, dim) * inverse[slot];
        total += part;
      }
      sums[dim] = total;
    });
  }
}

/// For every token i the highest slot whose key's cosine with key i is above `threshold`, and that cosine; slot 0 if
/// there is none. A key's cosine with itself counts as 0.
#if defined(__CUDACC__)
#pragma nv_exec_check_disable
#endif
template <class Block, class Row>
FORESIGHTKV_HOST_DEVICE void last_similar_keys(Block const& block, Row const& row, float threshold,
                                               float const* inverse, float* similar, float* cosine) {
  if constexpr (requires { bulk_last_similar_keys(block, row, threshold, inverse, similar, cosine); }) {
    bulk_last_similar_keys(block, row, threshold, inverse, similar, cosine);
  } else {
    block.for_each_token(row.length(), [&](auto const& lanes, int slot) {
      float found = 0.0f;
      int other = row.length();
      while (--other >= 0) {
        float const product =
            lanes.sum(row.key_head_dim(), [&](int dim) { return row.key(slot, dim) * row.key(other, dim); });
        found = other == slot ? 0.0f : product * inverse[slot] * inverse[other];
        if (found > threshold) break;
      }
      lanes.store(similar[slot], static_cast<float>(other < 0 ? 0 : other));
      lanes.store(cosine[slot], found);  // of slot 0 where the search ran to the end
    });
  }
}

/// The slots [first, last) that hold candidates; slots must ascend in position.
struct slot_range {
  int first = 0;
  int last = 0;
};

template <class Block, class Row>
FORESIGHTKV_HOST_DEVICE slot_range candidate_range(Block const& block, Row const& row) {
  int const n = row.length();
  float const last = block.max(n, [&](int i) { return row.candidate(i) ? static_cast<float>(i + 1) : 0.0f; });
  float const rest = block.max(n, [&](int i) { return row.candidate(i) ? static_cast<float>(n - i) : 0.0f; });
  if (!(last > 0.0f)) return {};
  return {n - static_cast<int>(rest), static_cast<int>(last)};
}

/// out[first, last) = largest of the Width entries of x around each, those inside [first, last). A NaN stays where it
/// is and does not spread.
template <int Width, class Block>
FORESIGHTKV_HOST_DEVICE void max_pool_row(Block const& block, slot_range range, float const* x, float* out) {
  block.for_each(range.last - range.first, [&](int i) {
    int const center = range.first + i;
    int const from = center - Width / 2 > range.first ? center - Width / 2 : range.first;
    int const to = center + Width / 2 < range.last - 1 ? center + Width / 2 : range.last - 1;
    float largest = x[center];
    for (int k = from; k <= to; ++k) largest = x[k] > largest ? x[k] : largest;
    out[center] = largest;
  });
}

}  // namespace foresightkv::inline v0::detail
