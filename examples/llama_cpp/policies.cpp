// SPDX-License-Identifier: Apache-2.0
#include "policies.hpp"

namespace llama_cpp {

namespace {

// `ordered` moves numbers of cells alone, so that it costs nothing, and it suits every scorer.
template <class Scorer>
using policy_of = fkv::policy<fkv::eviction_config, Scorer, fkv::top_k, fkv::ordered>;

fkv::eviction_config as_given(eviction_settings const& settings) { return settings.config; }

fkv::eviction_config newest_half(eviction_settings const& settings) { return fkv::with_newest_half(settings.config); }

template <class Scorer>
Scorer make_scorer([[maybe_unused]] eviction_settings const& settings) {
  if constexpr (std::same_as<Scorer, fkv::foresight<>>)
    return {settings.judge};
  else if constexpr (std::same_as<Scorer, fkv::random>)
    return {settings.seed};
  else
    return {};
}

template <class Scorer, auto Config = as_given>
constexpr policy_entry entry(std::string_view name) {
  using policy = policy_of<Scorer>;
  return {name, cell_eviction_by<policy>::reads_queries, std::same_as<Scorer, fkv::foresight<>>, Config,
          [](eviction_settings const& settings, graph_watcher const& seen) -> std::unique_ptr<cell_eviction> {
            policy const made{settings.config, make_scorer<Scorer>(settings), {}, {}, {}};
            return std::make_unique<cell_eviction_by<policy>>(made, settings, seen);
          }};
}

constexpr policy_entry policies[] = {
    entry<fkv::foresight<>>("foresight"),
    entry<fkv::window_sum>("window_sum"),
    entry<fkv::h2o, newest_half>("h2o"),
    entry<fkv::h2o_per_query>("h2o_per_query"),
    entry<fkv::tova>("tova"),
    entry<fkv::snap_kv<>>("snap_kv"),
    entry<fkv::r_kv<>>("r_kv"),
    entry<fkv::key_diff>("key_diff"),
    entry<fkv::key_norm>("key_norm"),
    entry<fkv::streaming_llm>("streaming_llm"),
    entry<fkv::random>("random"),
};

}  // namespace

std::span<policy_entry const> all_policies() { return policies; }

}  // namespace llama_cpp
