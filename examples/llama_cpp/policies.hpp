// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <foresightkv/config.hpp>
#include <memory>
#include <span>
#include <string_view>

#include "cell_eviction.hpp"

namespace llama_cpp {

/// A policy by name.
struct policy_entry {
  std::string_view name;
  bool reads_queries;
  bool needs_judge;
  fkv::eviction_config (*config)(eviction_settings const&);  ///< that of the settings, as the policy wants it
  std::unique_ptr<cell_eviction> (*make)(eviction_settings const&,
                                         graph_watcher const&);  ///< settings have that config
};

/// All policies, in the order in which they are printed.
[[nodiscard]] std::span<policy_entry const> all_policies();

}  // namespace llama_cpp
