// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <cstddef>
#include <cstdint>
#include <vector>

#include <foresightkv/foresightkv.hpp>

namespace fkv = foresightkv;
using fkv::argument;
using fkv::errc;

namespace {

constexpr fkv::cache_shape shape{.num_layers = 2,
                                 .num_sequences = 1,
                                 .num_kv_heads = 1,
                                 .group = 2,
                                 .key_head_dim = 4,
                                 .value_head_dim = 4,
                                 .capacity = 8};
using policy_type = fkv::policy<fkv::eviction_config, fkv::foresight<>, fkv::top_k, fkv::ordered, fkv::per_sequence>;

/// All that a call of a policy on the host is checked for; an edit breaks one thing.
struct call {
  std::vector<float> tokens = std::vector<float>(2 * 8 * 4);
  std::vector<float> weights = std::vector<float>(fkv::packed_judge_floats({2, 1, 2, 4, 4}));
  std::int32_t length = 8, new_length = 0, budget = 4;
  policy_type policy{{.budget = 4, .interval = 2}, {{weights.data(), {2, 1, 2, 4, 4}}}, {}, {}, {&budget}};
  fkv::dense_cache<float> cache = fkv::dense_cache<float>::hnd(tokens.data(), tokens.data(), &length, shape);
  fkv::sequence_list list{nullptr, nullptr, 1, 8};
  fkv::observation<float> window = fkv::observation<float>::hnd(tokens.data(), shape, 2);
  std::vector<std::byte> columns = std::vector<std::byte>(fkv::state_bytes(policy_type{}, shape, 6));
  fkv::row_state state = fkv::make_state(policy_type{}, shape, 6, {columns.data(), columns.size()});
  std::vector<std::byte> memory = std::vector<std::byte>(fkv::evict_bytes(fkv::host, policy_type{}, shape, list, 2));
  fkv::workspace scratch{memory.data(), memory.size()};
  std::int32_t* out = &new_length;

  [[nodiscard]] fkv::status check() const {
    return fkv::detail::first_error(
        [&] { return fkv::detail::check_policy_call(fkv::host, policy, cache, list, scratch, 2); },
        [&] { return fkv::detail::check_whole_window(window); },
        [&] { return fkv::detail::check_policy_state(policy, state, cache.shape()); },
        [&] { return fkv::detail::check_new_lengths(cache, out); });
  }
};

template <class Edit>
void expect(errc code, argument where, Edit const& edit) {
  call given;
  REQUIRE(given.check().ok());
  REQUIRE(given.check().where == argument::none);
  edit(given);
  CAPTURE(fkv::message(where));
  CHECK(given.check().code == code);
  CHECK(given.check().where == where);
}

}  // namespace

TEST_CASE("check: a refused call says which argument to look at") {
  expect(errc::invalid_config, argument::config, [](auto& c) { c.policy.config.interval = 0; });
  expect(errc::invalid_shape, argument::cache_shape, [](auto& c) { c.cache.extents.group = 0; });
  expect(errc::null_pointer, argument::keys, [](auto& c) { c.cache.key_data = nullptr; });
  expect(errc::null_pointer, argument::values, [](auto& c) { c.cache.value_data = nullptr; });
  expect(errc::invalid_shape, argument::values, [](auto& c) { c.cache.value_layout.token = 3; });
  expect(errc::null_pointer, argument::lengths, [](auto& c) { c.cache.row_lengths = nullptr; });
  expect(errc::invalid_shape, argument::sequences, [](auto& c) { c.list.max_count = -1; });
  expect(errc::null_pointer, argument::budget, [](auto& c) { c.policy.budget.budgets = nullptr; });
  expect(errc::null_pointer, argument::queries, [](auto& c) { c.window.queries = nullptr; });
  expect(errc::invalid_shape, argument::window, [](auto& c) { c.window.soft_cap = -1.0f; });
  expect(errc::unsupported, argument::window, [](auto& c) { c.window.continues = true; });
  expect(errc::workspace_too_small, argument::workspace, [](auto& c) { --c.scratch.size; });
  expect(errc::null_pointer, argument::workspace, [](auto& c) { c.scratch.data = nullptr; });
  expect(errc::null_pointer, argument::new_lengths, [](auto& c) { c.out = nullptr; });
  expect(errc::overlap, argument::new_lengths, [](auto& c) { c.out = &c.length; });
}

TEST_CASE("check: what is wrong with a judge is told apart") {
  expect(errc::null_pointer, argument::judge, [](auto& c) { c.policy.scorer.weights.packed = nullptr; });
  expect(errc::invalid_shape, argument::judge_shape, [](auto& c) { c.policy.scorer.weights.shape.group = 1; });
  expect(errc::invalid_shape, argument::judge_layers, [](auto& c) { c.policy.scorer.weights.shape.num_layers = 1; });
}

TEST_CASE("check: what is wrong with a state is told apart") {
  expect(errc::null_pointer, argument::state, [](auto& c) { c.state = {}; });
  expect(errc::invalid_shape, argument::state, [](auto& c) { c.state.group = 1; });
  expect(errc::invalid_shape, argument::state_capacity, [](auto& c) { c.state.capacity = 3; });
  expect(errc::workspace_too_small, argument::state, [](auto& c) {
    c.state = fkv::make_state(policy_type{}, shape, 6, {c.columns.data(), c.columns.size() - 1});
  });
}

TEST_CASE("check: a part that names no argument is named by its place in the call") {
  struct silent_cache : fkv::dense_cache<float> {
    [[nodiscard]] static fkv::status check() { return {errc::null_pointer}; }
  };
  call given;
  silent_cache cache;
  cache.extents = shape;
  auto const refused = fkv::detail::check_policy_call(fkv::host, given.policy, cache, given.list, given.scratch, 2);
  CHECK(refused == fkv::status{errc::null_pointer});
  CHECK(refused.where == argument::cache);
}
