// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <foresightkv/detail/random.hpp>
#include <foresightkv/scorer.hpp>

namespace foresightkv::inline v0 {

/// Uniform random numbers in (0, 1): the floor that every scorer has to beat (kvpress random_press.py).
///
/// Drawn afresh for every eviction, layer and head by Philox4x32-10 with counter (position, request id, layer *
/// heads + head, step), all of the model: the same on every backend, whatever the order of slots, batch and shards.
struct random {
  using reads = statistics<>;

  std::uint64_t seed = 0;

  template <class Lanes, class Token>
  FORESIGHTKV_HOST_DEVICE float operator()(Lanes const&, Token const& token) const {
    // Another key than a sampling selector with the same seed, whose counter is the same.
    std::uint64_t const key = seed ^ 0x72616e646f6d2073u;
    std::uint32_t const row = detail::model_row(token.layer(), token.model_kv_heads(), token.kv_head());
    return detail::uniform_float(detail::draw(key, token.position(), token.request_id(), row, token.step()));
  }
};

}  // namespace foresightkv::inline v0
