// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <foresightkv/element.hpp>
#include <foresightkv/scorer.hpp>

namespace testing {

/// A user's scorer: what the README shows.
struct users_scorer {
  using reads = foresightkv::statistics<foresightkv::sum>;

  float weight = 0.1f;

  template <class Lanes, class Token>
  FORESIGHTKV_HOST_DEVICE float operator()(Lanes const& lanes, Token const& token) const {
    return token.mean(foresightkv::sum{}) -
           weight * lanes.sum(token.key_head_dim(), [&](int dim) { return token.key(dim) * token.key(dim); });
  }
};

/// A user's row scorer: the key's first element, less the largest of the row. Borrows a row of scratch.
struct users_row_scorer {
  using reads = foresightkv::statistics<>;
  static constexpr bool needs_time_order = false;
  static constexpr int scratch_rows = 1;

  template <class Block, class Row>
  FORESIGHTKV_HOST_DEVICE void operator()(Block const& block, Row const& row, float* scores) const {
    float* const first = row.scratch(0);
    block.for_each(row.length(), [&](int slot) { first[slot] = row.key(slot, 0); });
    float const largest = block.max(row.length(), [&](int slot) { return first[slot]; });
    block.for_each(row.length(), [&](int slot) { scores[slot] = first[slot] - largest; });
  }
};

/// Scores that are no ordinary numbers in places: by position, `period` of them apart.
struct odd_scorer {
  using reads = foresightkv::statistics<>;

  float odd = 0.0f;
  int period = 5;

  template <class Lanes, class Token>
  FORESIGHTKV_HOST_DEVICE float operator()(Lanes const&, Token const& token) const {
    return token.position() % period == 2 ? odd : token.key(0);
  }
};

/// The same score for every token.
struct constant_scorer {
  using reads = foresightkv::statistics<>;

  float value = 0.0f;

  template <class Lanes, class Token>
  FORESIGHTKV_HOST_DEVICE float operator()(Lanes const&, Token const&) const {
    return value;
  }
};

}  // namespace testing
