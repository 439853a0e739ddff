// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string_view>

#include "paged_engine/attention.hpp"
#include "paged_engine/eviction.hpp"

namespace paged_engine {

/// Where evictions and attention run. A device takes the engine's memory from support::cuda_memory.
enum class processor { host, cuda };

/// An eviction by a policy's name; "full" evicts nothing. Throws std::invalid_argument for a name that is none.
[[nodiscard]] eviction_maker eviction_by(std::string_view policy, fkv::eviction_config const& config, processor where);

[[nodiscard]] attention attention_on(processor where);

}  // namespace paged_engine
