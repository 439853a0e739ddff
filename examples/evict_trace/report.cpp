// SPDX-License-Identifier: Apache-2.0
#include "report.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <string_view>
#include <vector>

namespace evict_trace {
namespace {

std::string fixed_point(double value, int digits) {
  char text[64];
  std::snprintf(text, sizeof text, "%.*f", digits, value);
  return text;
}

std::vector<std::string> cells(policy_result const& row) {
  bool const evicts = row.policy->evicts;
  return {std::string(row.policy->name),
          fixed_point(row.attention_recall, 5),
          fixed_point(row.output_error, 5),
          row.golden_overlap ? fixed_point(*row.golden_overlap, 3) : "-",
          human_bytes(static_cast<double>(row.cache_bytes)),
          evicts ? human_bytes(row.bytes_moved) : "-",
          evicts ? fixed_point(row.microseconds, 0) + " us" : "-"};
}

std::string join(std::vector<int> const& numbers) {
  std::string text;
  for (int const number : numbers) text += (text.empty() ? "" : ", ") + std::to_string(number);
  return text;
}

std::string headline(experiment const& done) {
  auto const& given = done.chosen().given;
  auto const heads = static_cast<int>(done.layers.size()) * done.shape.heads;
  return done.trace + ", layer" + (done.layers.size() == 1 ? " " : "s ") + join(done.layers) + ", " +
         std::to_string(done.shape.kv_heads) + " KV heads of " + std::to_string(done.shape.group()) +
         " query heads\nbudget " + grouped(given.budget) + ", interval " + grouped(given.interval) + ": " +
         grouped(given.evictions()) + " evictions per row, measured on tokens " + grouped(given.start) + " to " +
         grouped(given.end - 1) + " (" + grouped((std::int64_t{given.end} - given.start) * heads) + " queries)\n";
}

}  // namespace

std::string grouped(long long value) {
  std::string digits = std::to_string(value);
  for (auto place = static_cast<std::ptrdiff_t>(digits.size()) - 3; place > (value < 0 ? 1 : 0); place -= 3)
    digits.insert(static_cast<std::size_t>(place), ",");
  return digits;
}

std::string human_bytes(double bytes) {
  constexpr std::string_view units[] = {" B", " KiB", " MiB", " GiB", " TiB"};
  std::size_t unit = 0;
  for (; bytes >= 1024.0 && unit + 1 < std::size(units); ++unit) bytes /= 1024.0;
  return fixed_point(bytes, bytes < 100.0 && unit > 0 ? 1 : 0) + std::string(units[unit]);
}

std::string table(experiment const& done) {
  std::vector<std::vector<std::string>> lines{{"", "attention", "output", "golden", "", "", ""},
                                              {"policy", "recall", "error", "overlap", "cache", "moved", "time"}};
  for (auto const& row : done.chosen().policies) lines.push_back(cells(row));
  std::vector<std::size_t> widths(lines.front().size());
  for (auto const& line : lines)
    for (std::size_t i = 0; i < line.size(); ++i) widths[i] = std::max(widths[i], line[i].size());

  std::string text = headline(done) + "\n";
  for (std::size_t number = 0; number < lines.size(); ++number) {
    auto const& line = lines[number];
    std::string row = line[0] + std::string(widths[0] - line[0].size(), ' ');
    for (std::size_t i = 1; i < line.size(); ++i) row += "   " + std::string(widths[i] - line[i].size(), ' ') + line[i];
    row.erase(row.find_last_not_of(' ') + 1);
    text += row + "\n";
    if (number == 1) {
      std::size_t total = widths[0];
      for (std::size_t i = 1; i < widths.size(); ++i) total += 3 + widths[i];
      text += std::string(total, '-') + "\n";
    }
  }
  for (auto const& note : done.notes) text += "\n" + note + "\n";
  return text;
}

std::string json(experiment const& done) {
  auto const& [given, rows] = done.chosen();
  nlohmann::ordered_json out;
  out["trace"] = done.trace;
  out["budget"] = given.budget;
  out["interval"] = given.interval;
  out["recent"] = given.recent;
  out["from"] = given.start;
  out["to"] = given.end;
  out["seed"] = given.seed;
  out["threads"] = given.where.host.num_threads;
  out["layers"] = done.layers;
  auto& policies = out["policies"] = nlohmann::ordered_json::object();
  for (auto const& row : rows) {
    auto& measures = policies[std::string(row.policy->name)];
    measures["attention_recall"] = row.attention_recall;
    measures["output_error"] = row.output_error;
    measures["golden_overlap"] = nullptr;
    if (row.golden_overlap) measures["golden_overlap"] = *row.golden_overlap;
    measures["cache_bytes"] = row.cache_bytes;
    measures["bytes_moved"] = std::llround(row.bytes_moved);
    measures["microseconds"] = row.microseconds;
  }
  return out.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
}

}  // namespace evict_trace
