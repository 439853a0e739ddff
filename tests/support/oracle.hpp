// SPDX-License-Identifier: Apache-2.0
#pragma once

// What the library should compute, in naive double-precision loops that share no code with it: attention,
// statistics, carried statistics, and the judge.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include <foresightkv/judge.hpp>
#include <foresightkv/observation.hpp>
#include <foresightkv/statistics.hpp>

namespace oracle {

namespace fkv = foresightkv;

using numbers = std::vector<double>;

/// One row's tokens, slot by slot.
struct row {
  std::vector<int> position;  // negative: an empty slot
  std::vector<numbers> key;
  std::vector<numbers> value;

  [[nodiscard]] std::size_t length() const { return position.size(); }
  /// One past the newest position.
  [[nodiscard]] int end() const {
    int newest = -1;
    for (int const where : position) newest = std::max(newest, where);
    return newest + 1;
  }
};

struct attention_rule {
  double scale = 1.0;
  double soft_cap = 0.0;
  std::optional<double> sink;  // one more logit in the denominator
};

/// By its bits: -ffast-math knows neither NaN nor infinity.
inline bool finite(double value) {
  constexpr std::uint64_t exponent = 0x7ff0000000000000u;
  return (__builtin_bit_cast(std::uint64_t, value) & exponent) != exponent;
}

inline double dot(numbers const& a, numbers const& b) {
  double total = 0.0;
  for (std::size_t i = 0; i < a.size(); ++i) total += a[i] * b[i];
  return total;
}

inline double logit(attention_rule const& rule, numbers const& query, numbers const& key) {
  double const scaled = dot(query, key) * rule.scale;
  return rule.soft_cap > 0.0 ? rule.soft_cap * std::tanh(scaled / rule.soft_cap) : scaled;
}

inline bool sees(int query_position, int token_position) {
  return token_position >= 0 && token_position <= query_position;
}

/// Natural log-sum-exp of a query over the tokens that it sees, sink included; minus infinity if there are
/// none.
inline double log_sum_exp(attention_rule const& rule, row const& tokens, numbers const& query, int query_position) {
  double total = 0.0;
  bool any = false;
  for (std::size_t slot = 0; slot < tokens.length(); ++slot)
    if (sees(query_position, tokens.position[slot])) {
      total += std::exp(logit(rule, query, tokens.key[slot]));
      any = true;
    }
  if (!any) return -HUGE_VAL;
  if (rule.sink) total += std::exp(*rule.sink);
  return std::log(total);
}

/// Probabilities that a query with this log-sum-exp gives every slot; none if it is not finite.
inline numbers attend(attention_rule const& rule, row const& tokens, numbers const& query, int query_position,
                      double log_sum) {
  numbers probability(tokens.length(), 0.0);
  if (!finite(log_sum)) return probability;
  for (std::size_t slot = 0; slot < tokens.length(); ++slot)
    if (sees(query_position, tokens.position[slot]))
      probability[slot] = std::exp(logit(rule, query, tokens.key[slot]) - log_sum);
  return probability;
}

/// A window of one query head.
struct window {
  int end = 0;                       // one past its newest position
  std::vector<int> position;         // [query]
  std::vector<numbers> probability;  // [query][slot]
};

enum class fold { maximum, minimum, sum, last, sum_of_squares };

/// A window statistic by name: nothing of the library's own folds.
struct statistic {
  fold kind = fold::sum;
  int width = 0;
};

template <class Statistic>
struct describe;
template <>
struct describe<fkv::maximum> {
  static constexpr statistic value{fold::maximum, 0};
};
template <>
struct describe<fkv::minimum> {
  static constexpr statistic value{fold::minimum, 0};
};
template <>
struct describe<fkv::sum> {
  static constexpr statistic value{fold::sum, 0};
};
template <int Width>
struct describe<fkv::last<Width>> {
  static constexpr statistic value{fold::last, Width};
};
template <>
struct describe<fkv::sum_of_squares> {
  static constexpr statistic value{fold::sum_of_squares, 0};
};

/// A statistic of one slot; 0 for a window of no queries.
inline double evaluate(statistic const& what, window const& seen, std::size_t slot) {
  if (seen.probability.empty()) return 0.0;
  double total = 0.0;
  double smallest = 2.0;
  double largest = 0.0;
  for (std::size_t r = 0; r < seen.probability.size(); ++r) {
    double const p = seen.probability[r][slot];
    smallest = std::min(smallest, p);
    largest = std::max(largest, p);
    int const age = seen.end - 1 - seen.position[r];
    if (what.kind == fold::sum_of_squares) total += p * p;
    if (what.kind == fold::sum || (what.kind == fold::last && age < what.width)) total += p;
  }
  if (what.kind == fold::maximum) return largest;
  if (what.kind == fold::minimum) return smallest;
  return total;
}

/// All statistics of a list, in its order.
template <class... Statistics>
std::vector<statistic> describe_list(fkv::statistics<Statistics...>) {
  return {describe<Statistics>::value...};
}

/// The published judge of one head: a DROP score. Features: the eight statistics, `group` values each.
struct judge {
  std::vector<numbers> fc1_weight;  // [inputs][hidden]
  numbers fc1_bias, fc2_weight;     // [hidden]
  double fc2_bias = 0.0;

  [[nodiscard]] double drop_score(numbers const& key, numbers const& value, numbers const& features) const {
    numbers input = key;
    input.insert(input.end(), value.begin(), value.end());
    input.insert(input.end(), features.begin(), features.end());
    double score = fc2_bias;
    for (std::size_t unit = 0; unit < fc1_bias.size(); ++unit) {
      double x = fc1_bias[unit];
      for (std::size_t i = 0; i < input.size(); ++i) x += input[i] * fc1_weight[i][unit];
      score += 0.5 * x * (1.0 + std::erf(x / std::sqrt(2.0))) * fc2_weight[unit];
    }
    return score;
  }
};

}  // namespace oracle
