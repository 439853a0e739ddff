// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <foresightkv/execution.hpp>
#include <foresightkv/golden/config.hpp>
#include <foresightkv/io/trace.hpp>
#include <functional>
#include <vector>

namespace golden_labels {

namespace fkv = foresightkv;

struct layer_labels {
  std::vector<float> labels;          ///< [steps][kv_heads][budget]
  std::vector<std::int32_t> evicted;  ///< [steps][kv_heads][interval]
};

/// Golden Eviction of the first `tokens` tokens of one recorded layer.
///
/// One KV head after another: beside the result, memory holds one head's queries and keys in fp32 and what
/// `golden_eviction` needs for it, O(T (group head_dim + T / interval)). `done(heads)` is called after each
/// head.
[[nodiscard]] layer_labels label_layer(fkv::host_execution host, fkv::golden_config const& config,
                                       fkv::io::trace const& trace, int layer, int tokens,
                                       std::function<void(int heads)> const& done);

}  // namespace golden_labels
