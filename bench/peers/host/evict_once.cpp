// SPDX-License-Identifier: Apache-2.0
// One whole eviction of one layer, told to run by side_by_side.py; README.md says what is timed.

#include "worker.hpp"

#include <foresightkv/caches/dense.hpp>
#include <foresightkv/compactions/ordered.hpp>
#include <foresightkv/judge.hpp>
#include <foresightkv/scorers/foresight.hpp>
#include <foresightkv/selectors/sampled_top_k.hpp>
#include <foresightkv/selectors/top_k.hpp>
#include <foresightkv/verbs/evict.hpp>
#include <foresightkv/verbs/reset.hpp>

#include <algorithm>
#include <cstdint>
#include <numeric>

namespace fkv = foresightkv;

namespace {

constexpr int interval = 128;
constexpr int length = peers::budget + interval;
constexpr auto rows = static_cast<std::size_t>(peers::kv_heads);
constexpr auto row_elements = static_cast<std::size_t>(length) * peers::head_dim;

constexpr fkv::cache_shape shape() {
  fkv::cache_shape result;
  result.num_kv_heads = peers::kv_heads;
  result.group = peers::group;
  result.key_head_dim = result.value_head_dim = peers::head_dim;
  result.capacity = length;
  return result;
}

std::vector<float> read_judge(peers::options const& given, fkv::judge_shape const& judge) {
  auto const weights = rows * static_cast<std::size_t>(judge.inputs()) * fkv::judge_shape::hidden;
  auto const fc1_weight = peers::read(given.inputs, "fc1_weight", weights);
  auto const fc1_bias = peers::read(given.inputs, "fc1_bias", rows * fkv::judge_shape::hidden);
  auto const fc2_weight = peers::read(given.inputs, "fc2_weight", rows * fkv::judge_shape::hidden);
  auto const fc2_bias = peers::read(given.inputs, "fc2_bias", rows);
  fkv::judge_layer const layer{fc1_weight.data(), fc1_bias.data(), fc2_weight.data(), fc2_bias.data()};
  std::vector<float> packed(fkv::packed_judge_floats(judge));
  auto const status = fkv::pack_judge(judge, &layer, packed.data());
  if (!status.ok()) peers::fail(status.message());
  return packed;
}

/// The layer and its state as they stand before the eviction, again before every run.
template <class Policy>
class layer_state {
 public:
  layer_state(Policy const& policy, peers::options const& given)
      : first_keys_(peers::read(given.inputs, "key", rows * row_elements)),
        first_values_(peers::read(given.inputs, "value", rows * row_elements)),
        accumulated_(peers::read(given.inputs, "accumulated", rows * peers::budget * peers::group)),
        keys_(first_keys_),
        values_(first_values_),
        memory_(fkv::state_bytes(policy, shape(), length)),
        columns_(fkv::make_state(policy, shape(), length, memory_)) {}

  [[nodiscard]] auto cache() { return fkv::dense_cache<float>::hnd(keys_.data(), values_.data(), &length_, shape()); }
  [[nodiscard]] fkv::eviction_state<Policy> const& columns() const { return columns_; }

  void restore() {
    std::ranges::copy(first_keys_, keys_.begin());
    std::ranges::copy(first_values_, values_.begin());
    std::uint64_t const seed = 1;
    if (!fkv::reset(fkv::host, columns_, {nullptr, nullptr, 1, length}, nullptr, &seed).ok()) peers::fail("no state");
    for (int row = 0; row < peers::kv_heads; ++row) restore_row(row);
  }

 private:
  /// One eviction lies behind the row: it took the first `interval` positions.
  void restore_row(int row) {
    auto* const position = columns_.position + columns_.column(row, 0);
    std::iota(position, position + peers::budget, interval);
    columns_.seen_length[row] = peers::budget;
    columns_.next_position[row] = length;
    columns_.step[row] = 1;
    float const* sums = accumulated_.data() + static_cast<std::ptrdiff_t>(row) * peers::budget * peers::group;
    for (int slot = 0; slot < peers::budget; ++slot, sums += peers::group)
      for (int statistic = 0; statistic < columns_.num_carried; ++statistic)
        std::copy_n(sums, peers::group, columns_.carried_at(row, slot) + statistic * peers::group);
  }

  std::vector<float> first_keys_, first_values_, accumulated_, keys_, values_;
  std::vector<std::byte> memory_;
  fkv::eviction_state<Policy> columns_;
  std::int32_t length_ = length;
};

template <class Selector>
int serve(peers::options const& given, Selector selector) {
  constexpr fkv::judge_shape judge{1, peers::kv_heads, peers::group, peers::head_dim, peers::head_dim};
  constexpr fkv::eviction_config config{.budget = peers::budget, .interval = interval};
  auto const packed = read_judge(given, judge);
  auto const policy = fkv::compose<config>(fkv::foresight<>{{packed.data(), judge}}, selector, fkv::ordered{});

  auto const queries =
      peers::read(given.inputs, "query", rows * peers::group * static_cast<std::size_t>(interval) * peers::head_dim);
  auto const lse = peers::read(given.inputs, "lse", rows * peers::group * static_cast<std::size_t>(interval));
  auto window = fkv::observation<float>::hnd(queries.data(), shape(), interval);
  if (given.lse) window = window.with_lse(lse.data());

  layer_state layer(policy, given);
  fkv::sequence_list const sequences{nullptr, nullptr, 1, length};
  auto const exec = fkv::host.threads(given.threads);
  std::vector<std::byte> scratch(fkv::evict_bytes(exec, policy, shape(), sequences, interval));
  std::vector<std::int32_t> evicted(rows * length), evicted_count(rows);
  std::int32_t new_length = 0;
  fkv::eviction_output output{&new_length, {}, false};
  output.lists.evicted = evicted.data();
  output.lists.evicted_count = evicted_count.data();
  output.lists.capacity = length;

  auto const run = [&] {
    layer.restore();
    fkv::status status;
    double const seconds = peers::seconds_of([&] {
      status = fkv::evict(exec, fkv::batch{policy, layer.cache(), sequences, layer.columns(), scratch}, window, output);
    });
    if (!status.ok()) peers::fail(status.message());
    bool const all = std::ranges::all_of(evicted_count, [](std::int32_t count) { return count == interval; });
    if (new_length != peers::budget || !all) peers::fail("the eviction did not cut the row to its budget");
    return seconds;
  };
  auto const save = [&](std::string const& directory) {
    std::vector<std::int32_t> lists;
    for (std::size_t row = 0; row < rows; ++row)
      lists.insert(lists.end(), evicted.data() + output.lists.at(static_cast<int>(row)),
                   evicted.data() + output.lists.at(static_cast<int>(row)) + interval);
    peers::write<std::int32_t>(directory, "evicted.i32", lists);
  };
  return peers::serve("evict", given, run, save);
}

}  // namespace

int main(int count, char** words) {
  auto const given = peers::parse(count, words);
  return given.selector == "top_k" ? serve(given, fkv::top_k{}) : serve(given, fkv::sampled_top_k{});
}
