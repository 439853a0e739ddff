// SPDX-License-Identifier: Apache-2.0
#pragma once

// A few policies on a few caches that together have every scorer, compaction, budget, element type and length
// domain.

#include <utility>

#include "driver/model.hpp"

namespace driver {

/// Budgets that differ between the rows that share no length.
template <fkv::length_domain Domain>
struct listed_budget {
  static constexpr fkv::length_domain domain = Domain;

  std::int32_t const* budgets = nullptr;  // [layers] or [rows]

  FORESIGHTKV_HOST_DEVICE constexpr int operator()(fkv::eviction_config const&, fkv::cache_shape const& shape,
                                                   fkv::row_index at) const {
    return budgets[Domain == fkv::length_domain::layer ? at.layer : shape.row(at)];
  }
};
using layer_budget = listed_budget<fkv::length_domain::layer>;
using row_budget = listed_budget<fkv::length_domain::row>;

template <class Element>
constexpr storage storage_of() {
  if constexpr (std::is_same_v<Element, float>) return storage::float32;
  if constexpr (std::is_same_v<Element, fkv::half>) return storage::half;
  if constexpr (std::is_same_v<Element, fkv::bfloat16>) return storage::bfloat16;
  if constexpr (std::is_same_v<Element, std::int8_t>) return storage::int8;
  return std::is_same_v<Element, fkv::float8_e4m3> ? storage::e4m3 : storage::e5m2;
}
template <class Compaction>
constexpr moves moves_of() {
  if constexpr (std::is_same_v<Compaction, fkv::ordered>) return moves::ordered;
  return std::is_same_v<Compaction, fkv::fill_holes> ? moves::fill_holes : moves::slot_list;
}
template <class Budget>
constexpr budget_kind budget_of() {
  if constexpr (std::is_same_v<Budget, fkv::uniform>) return budget_kind::uniform;
  if constexpr (std::is_same_v<Budget, fkv::per_sequence>) return budget_kind::per_sequence;
  return std::is_same_v<Budget, layer_budget> ? budget_kind::per_layer : budget_kind::per_row;
}

/// What scorers are made of, and what keeps it alive.
struct ingredients {
  judges weights;
  std::vector<float> packed;
  fkv::judge_weights judge{};
  std::uint64_t seed = 0;
  float first_weight = 0.0f, second_weight = 0.0f;
};

/// A scorer of the library and its naive twin. Names a scorer type, what it reads, and both ways to make it.
template <class Scorer>
struct twin;

struct reads_nothing {
  static std::vector<statistic> window() { return {}; }
  static std::vector<carried> carries() { return {}; }
};
struct reads_accumulated {
  static std::vector<statistic> window() { return {{fold::sum, 0}}; }
  static std::vector<carried> carries() { return {carried::accumulated}; }
};

template <>
struct twin<fkv::window_sum> {
  static std::vector<statistic> window() { return {{fold::sum, 0}}; }
  static std::vector<carried> carries() { return {}; }
  static fkv::window_sum make(ingredients const&) { return {}; }
  static rating rate(ingredients const&, scored_row const& row) { return group_mean(row.tokens, row.window, 0); }
};
template <>
struct twin<fkv::accumulated_sum> : reads_accumulated {
  static fkv::accumulated_sum make(ingredients const&) { return {}; }
  static rating rate(ingredients const&, scored_row const& row) { return group_mean(row.tokens, row.carried, 0); }
};
template <>
struct twin<fkv::h2o_per_query> : reads_accumulated {
  static fkv::h2o_per_query make(ingredients const&) { return {}; }
  static rating rate(ingredients const&, scored_row const& row) { return per_query(row.tokens, row.carried, 0); }
};
template <>
struct twin<fkv::tova> {
  static std::vector<statistic> window() { return {{fold::last, 1}}; }
  static std::vector<carried> carries() { return {}; }
  static fkv::tova make(ingredients const&) { return {}; }
  static rating rate(ingredients const&, scored_row const& row) { return group_mean(row.tokens, row.window, 0); }
};
template <>
struct twin<fkv::key_norm> : reads_nothing {
  static fkv::key_norm make(ingredients const&) { return {}; }
  static rating rate(ingredients const&, scored_row const& row) { return driver::key_norm(row.tokens); }
};
template <>
struct twin<fkv::key_diff> : reads_nothing {
  static fkv::key_diff make(ingredients const&) { return {}; }
  static rating rate(ingredients const&, scored_row const& row) { return driver::key_diff(row.tokens); }
};
template <>
struct twin<fkv::streaming_llm> : reads_nothing {
  static fkv::streaming_llm make(ingredients const&) { return {}; }
  static rating rate(ingredients const&, scored_row const& row) { return driver::streaming_llm(row.tokens); }
};
template <>
struct twin<fkv::random> : reads_nothing {
  static fkv::random make(ingredients const& given) { return {given.seed}; }
  static rating rate(ingredients const& given, scored_row const& row) { return random_scores(row, given.seed); }
};
template <>
struct twin<fkv::foresight<>> {
  static std::vector<statistic> window() {
    return {{fold::maximum, 0}, {fold::minimum, 0}, {fold::sum, 0},
            {fold::last, 16},   {fold::last, 8},    {fold::last, 32}};
  }
  static std::vector<carried> carries() { return {carried::accumulated, carried::decayed}; }
  static fkv::foresight<> make(ingredients const& given) { return {given.judge}; }
  static rating rate(ingredients const& given, scored_row const& row) {
    return judge_scores(row, given.weights, {0, 1, 2, 3, 4, 5, 6, 7});
  }
};
using mixed = fkv::weighted_sum<fkv::h2o_per_query, fkv::key_diff>;
template <>
struct twin<mixed> : reads_accumulated {
  static mixed make(ingredients const& given) { return {given.first_weight, {}, given.second_weight, {}}; }
  static rating rate(ingredients const& given, scored_row const& row) {
    return weighted(given.first_weight, per_query(row.tokens, row.carried, 0), given.second_weight,
                    driver::key_diff(row.tokens));
  }
};

using snap = fkv::snap_kv<4, 3>;
template <>
struct twin<snap> : reads_nothing {
  static snap make(ingredients const&) { return {}; }
  static rating rate(ingredients const&, scored_row const& row) { return snap_kv(row, 4, 3); }
};
using redundant = fkv::r_kv<4, 3>;
template <>
struct twin<redundant> : reads_nothing {
  static redundant make(ingredients const& given) { return {given.second_weight, 0.4f}; }
  static rating rate(ingredients const& given, scored_row const& row) {
    return r_kv(row, 4, 3, double{given.second_weight}, double{0.4f});
  }
};

/// Where tokens stand.
struct in_rows {
  static constexpr int page_size = 0;
  template <class Storage, fkv::length_domain Domain>
  using cache = fkv::dense_cache<Storage, Storage, Domain>;
};
inline constexpr int any_page_size = -1;  // known at run time
template <int PageSize>
struct in_pages {
  static constexpr int page_size = PageSize;
  template <class Storage, fkv::length_domain Domain>
  using cache = fkv::paged_cache<Storage, PageSize == any_page_size ? 0 : PageSize, Storage, Domain>;
};

/// A policy on a cache.
template <class Scorer, class Compaction, class Budget, class Element, class Query, fkv::length_domain Domain,
          fkv::log_base Base = fkv::log_base::natural, class Selector = fkv::top_k, class Layout = in_rows>
struct setup {
  using policy_type = fkv::policy<fkv::eviction_config, Scorer, Selector, Compaction, Budget>;
  static constexpr bool scaled = sizeof(Element) == 1;
  using storage_type = std::conditional_t<scaled, fkv::scaled_by_head<Element>, fkv::plain<Element>>;
  using cache_type = typename Layout::template cache<storage_type, Domain>;
  static constexpr bool paged = Layout::page_size != 0;
  /// Whether evictions go to another cache now and then. Into rows it is the same code, and takes as long to compile.
  static constexpr bool has_target = paged && Compaction::moves_tokens;
  using query_type = Query;
  using scorer = twin<Scorer>;
  static constexpr fkv::log_base base = Base;
  static constexpr bool needs_queries = std::is_same_v<Scorer, snap> || std::is_same_v<Scorer, redundant>;

  static setup_values values() {
    setup_values made;
    made.element = storage_of<Element>();
    made.query = storage_of<Query>();
    made.domain = Domain;
    made.compaction = moves_of<Compaction>();
    made.budget = budget_of<Budget>();
    made.sampled = std::is_same_v<Selector, fkv::sampled_top_k>;
    made.needs_queries = needs_queries;
    made.window = scorer::window();
    made.carries = scorer::carries();
    made.scaled = scaled;
    made.has_target = has_target;
    made.page_size = Layout::page_size;
    made.base_two = Base == fkv::log_base::two;
    // The cosine of numbers is 1 or -1: rounding would decide everything.
    made.least_key_dim = std::is_same_v<Scorer, fkv::key_diff> || std::is_same_v<Scorer, mixed> ? 4 : 1;
    return made;
  }
  static policy_type policy(fkv::eviction_config const& config, ingredients const& given, std::int32_t const* budgets) {
    policy_type made{config, scorer::make(given), {}, {}, {}};
    if constexpr (!std::is_same_v<Budget, fkv::uniform>) made.budget.budgets = budgets;
    return made;
  }
};

}  // namespace driver
