// SPDX-License-Identifier: Apache-2.0
#include "page.hpp"

#include <algorithm>
#include <cstddef>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace evict_trace {
namespace {

constexpr std::string_view page_template =
#include "page_template.inc"
    ;
constexpr std::string_view data_begins = "id=\"data\">";

/// Digits of 6 bits that tell every eviction and "never" apart.
int digits_for(int evictions) {
  int digits = 1;
  for (long long values = 64; values <= evictions; values *= 64) ++digits;
  return digits;
}

/// For each token the eviction in which it went, or the number of evictions: `digits` characters each.
std::string packed_head(record const& what, int kv_head, int evictions, int digits) {
  constexpr std::string_view alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
  std::string text;
  text.reserve(as_size(what.tokens) * as_size(digits));
  std::int32_t const* const evicted_at = what.of_head(kv_head);
  for (int k = 0; k < what.tokens; ++k) {
    auto const value = static_cast<unsigned>(std::min(evicted_at[k], evictions));
    for (int digit = digits - 1; digit >= 0; --digit) text += alphabet[(value >> (6 * digit)) % 64];
  }
  return text;
}

/// Layers whose maps the page shows: all, or as many as keep it small, spread evenly.
std::vector<std::size_t> mapped_layers(experiment const& done, int digits) {
  constexpr double largest_maps = 16e6;  // characters
  double const layer = static_cast<double>(done.maps.size()) * done.shape.kv_heads * done.chosen().given.end * digits;
  auto const all = done.layers.size();
  auto const fit = std::clamp<std::size_t>(static_cast<std::size_t>(largest_maps / layer), 1, all);
  std::vector<std::size_t> picked;
  for (std::size_t i = 0; i < fit; ++i) picked.push_back(fit == 1 ? all / 2 : i * (all - 1) / (fit - 1));
  return picked;
}

nlohmann::ordered_json budget_data(budget_result const& result) {
  auto const& [given, policies] = result;
  nlohmann::ordered_json out{{"budget", given.budget}, {"interval", given.interval}, {"recent", given.recent},
                             {"start", given.start},   {"end", given.end},           {"evictions", given.evictions()}};
  auto& measures = out["measures"] = nlohmann::ordered_json::object();
  for (auto const& row : policies)
    measures[std::string(row.policy->name)] = {{"lost", std::max(0.0, 1.0 - row.attention_recall)},
                                               {"error", row.output_error},
                                               {"overlap", row.golden_overlap.value_or(0.0)},
                                               {"cache", row.cache_bytes},
                                               {"moved", row.bytes_moved},
                                               {"time", row.microseconds}};
  return out;
}

nlohmann::ordered_json map_data(experiment const& done, std::vector<std::size_t> const& layers, int digits) {
  auto maps = nlohmann::ordered_json::object();
  auto const& [given, policies] = done.chosen();
  for (std::size_t i = 0; i < policies.size(); ++i) {
    if (!policies[i].policy->evicts) continue;
    auto& of_policy = maps[std::string(policies[i].policy->name)];
    for (auto const layer : layers) {
      auto const& [number, what] = done.maps[i][layer];
      nlohmann::ordered_json heads;
      auto const kv_heads = static_cast<int>(what.evicted_at.size() / as_size(what.tokens));
      for (int head = 0; head < kv_heads; ++head) heads.push_back(packed_head(what, head, given.evictions(), digits));
      of_policy.push_back({{"layer", number}, {"heads", std::move(heads)}});
    }
  }
  return maps;
}

std::string page_data(experiment const& done) {
  auto const& [given, policies] = done.chosen();
  int const digits = digits_for(given.evictions());
  auto const layers = mapped_layers(done, digits);
  nlohmann::ordered_json out{{"trace", done.trace},
                             {"layers", done.layers},
                             {"heads", done.shape.heads},
                             {"kvHeads", done.shape.kv_heads},
                             {"digits", digits}};
  for (auto const& row : policies)
    out["policies"].push_back({{"name", row.policy->name},
                               {"summary", row.policy->summary},
                               {"family", row.policy->family},
                               {"evicts", row.policy->evicts}});
  for (auto const& budget : done.budgets) out["budgets"].push_back(budget_data(budget));
  for (auto const layer : layers) out["mapped"].push_back(done.layers[layer]);
  out["maps"] = map_data(done, layers, digits);

  std::string text = out.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
  std::string safe;  // a file name must not end the script element
  for (char const c : text) c == '<' ? safe += "\\u003c" : safe += c;
  return safe;
}

}  // namespace

std::string page(experiment const& done) {
  auto const place = page_template.find(data_begins) + data_begins.size();
  return std::string(page_template.substr(0, place)) + page_data(done) + std::string(page_template.substr(place));
}

}  // namespace evict_trace
