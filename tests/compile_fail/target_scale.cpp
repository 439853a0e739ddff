// SPDX-License-Identifier: Apache-2.0
// expect-error: foresightkv: a target with a scale per token says where it stands, float* scale_at(slot), and what its element type can hold, element_traits::largest
#include <foresightkv/foresightkv.hpp>

namespace fkv = foresightkv;

/// An element type of one's own.
struct narrow {
  std::int8_t bits;
};
template <>
struct fkv::element_traits<narrow> {
#ifndef SHOULD_FAIL
  static constexpr float largest = 127.0f;
#endif
  static float load(narrow stored) { return element_traits<std::int8_t>::load(stored.bits); }
  static narrow store(float value) { return {element_traits<std::int8_t>::store(value)}; }
};

using target_type = fkv::dense_cache<fkv::scaled_by_token<narrow>>;

constexpr auto policy = fkv::compose(fkv::eviction_config{}, fkv::key_norm{}, fkv::top_k{}, fkv::ordered{});

fkv::status run(fkv::dense_cache<float> const& tokens, target_type const& target, fkv::selection const& lists,
                fkv::eviction_state<std::remove_const_t<decltype(policy)>> const& state, std::int32_t* new_lengths) {
  fkv::batch const rows{policy, tokens, {}, state, fkv::workspace{}};
  return fkv::compact(fkv::host, rows.into(target), lists, new_lengths);
}
