// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <algorithm>
#include <cstdint>
#include <set>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <foresightkv/compactions/ordered.hpp>
#include <foresightkv/detail/check.hpp>
#include <foresightkv/policy.hpp>
#include <foresightkv/selectors/top_k.hpp>
#include <foresightkv/state.hpp>

#include "support/no_scorer.hpp"
#include "support/policy_bench.hpp"

namespace fkv = foresightkv;

namespace {

using carrying = fkv::policy<fkv::eviction_config, testing::mixed_scorer, fkv::top_k, fkv::ordered>;
using light = fkv::policy<fkv::eviction_config, testing::no_scorer, fkv::top_k, fkv::ordered>;

constexpr fkv::cache_shape shape{.num_layers = 2,
                                 .num_sequences = 3,
                                 .num_kv_heads = 2,
                                 .group = 3,
                                 .key_head_dim = 5,
                                 .value_head_dim = 3,
                                 .capacity = 40};
constexpr int capacity = 11;

}  // namespace

TEST_CASE("state: columns follow from what the policy carries") {
  static_assert(
      std::is_same_v<fkv::eviction_state<carrying>::carried_list, fkv::statistics<fkv::accumulated, fkv::decayed>>);
  static_assert(std::is_same_v<fkv::eviction_state<light>::carried_list, fkv::statistics<>>);
  auto const rows = static_cast<std::size_t>(shape.num_rows());
  CHECK(fkv::state_bytes(carrying{}, shape, capacity) - fkv::state_bytes(light{}, shape, capacity) >=
        rows * capacity * 2 * 3 * sizeof(float));
  CHECK(fkv::row_state{}.empty());
}

TEST_CASE("state: arrays of a state lie apart, aligned, inside its buffer, wherever that begins") {
  for (std::size_t const shift : {0u, 1u, 63u}) {
    testing::guarded<std::byte> buffer(fkv::state_bytes(carrying{}, shape, capacity), shift);
    auto const state = fkv::make_state(carrying{}, shape, capacity, {buffer.data(), buffer.size()});
    REQUIRE_FALSE(state.empty());
    CHECK(state.num_rows() == shape.num_rows());
    CHECK(state.num_carried == 2);
    CHECK(state.group == 3);
    CHECK(state.capacity == capacity);
    std::vector<std::pair<std::uintptr_t, std::uintptr_t>> ranges;
    auto const add = [&](auto* first, std::size_t count) {
      auto const begin = reinterpret_cast<std::uintptr_t>(first);
      CHECK(begin % alignof(std::remove_reference_t<decltype(*first)>) == 0);
      ranges.emplace_back(begin, begin + count * sizeof(*first));
    };
    std::size_t const slots = 12 * capacity;
    add(state.position, slots);
    add(state.carried, slots * 6);
    add(state.seen_length, 12);
    add(state.next_position, 12);
    add(state.step, 12);
    add(state.request_id, 3);
    add(state.seed, 3);
    add(state.flags, 3);
    add(state.started, 3);
    std::sort(ranges.begin(), ranges.end());
    CHECK(ranges.front().first >= reinterpret_cast<std::uintptr_t>(buffer.begin()));
    CHECK(ranges.back().second <= reinterpret_cast<std::uintptr_t>(buffer.end()));
    for (std::size_t i = 1; i < ranges.size(); ++i) CHECK(ranges[i - 1].second <= ranges[i].first);
  }
}

TEST_CASE("state: rows and columns stand where a cache of that shape has them") {
  std::vector<std::byte> buffer(fkv::state_bytes(carrying{}, shape, capacity));
  auto const state = fkv::make_state(carrying{}, shape, capacity, {buffer.data(), buffer.size()});
  for (int layer = 0; layer < 2; ++layer)
    for (int sequence = 0; sequence < 3; ++sequence)
      for (int head = 0; head < 2; ++head)
        CHECK(state.row({layer, sequence, head}) == shape.row({layer, sequence, head}));
  CHECK(state.column(2, 5) == 2 * capacity + 5);
  CHECK(state.carried_at(2, 5) == state.carried + (2 * capacity + 5) * 2 * 3);
}

TEST_CASE("state: a buffer that is missing or short gives an empty state, and verbs say so") {
  std::vector<std::byte> buffer(fkv::state_bytes(carrying{}, shape, capacity));
  for (fkv::workspace const given : {fkv::workspace{nullptr, buffer.size()}, {buffer.data(), buffer.size() - 1}}) {
    auto const state = fkv::make_state(carrying{}, shape, capacity, given);
    CHECK(state.empty());
    for (fkv::status const refused :
         {fkv::detail::check_state(state, shape, 2), fkv::detail::check_optional_state(state, shape)}) {
      CHECK(refused == fkv::status{fkv::errc::workspace_too_small});
      CHECK(refused.where == fkv::argument::state);
    }
  }
  CHECK(fkv::detail::check_optional_state({}, shape).ok());  // fresh rows, without a state
}

TEST_CASE("state: every flag has a text of its own, one bit at a time") {
  std::set<std::string> texts;
  for (std::uint32_t left = 0x1fff; left != 0; left &= left - 1) {
    constexpr auto lowest = [](std::uint32_t bits) { return static_cast<fkv::sequence_flag>(bits & (0u - bits)); };
    std::string const text = fkv::message(lowest(left));
    CHECK(text != "unknown flag");
    CHECK_MESSAGE(texts.insert(text).second, text);
  }
  CHECK(texts.size() == 13);
  CHECK(std::string{fkv::message(fkv::sequence_flag{0x2000})} == "unknown flag");
}

TEST_CASE("state: flags that leave no sequence alone are notices") {
  using flag = fkv::sequence_flag;
  for (flag const notice : {flag::over_budget, flag::duplicate, flag::list_cut, flag::not_finite})
    CHECK_FALSE(fkv::left_alone(static_cast<std::uint32_t>(notice)));
  for (flag const alone : {flag::bad_length, flag::length_mismatch, flag::state_overflow, flag::bad_window,
                           flag::bad_budget, flag::missing_judge, flag::not_reset, flag::bad_table, flag::shared_page})
    CHECK(fkv::left_alone(static_cast<std::uint32_t>(alone) | static_cast<std::uint32_t>(flag::not_finite)));
  CHECK_FALSE(fkv::left_alone(0));
}

TEST_CASE("state: what a verb refuses") {
  std::vector<std::byte> buffer(fkv::state_bytes(carrying{}, shape, capacity));
  auto const sound = fkv::make_state(carrying{}, shape, capacity, {buffer.data(), buffer.size()});
  auto const code = [&](auto const& edit) {
    fkv::row_state state = sound;
    edit(state);
    return fkv::detail::check_state(state, shape, 2).code;
  };
  using fkv::errc;
  CHECK(code([](auto&) {}) == errc::ok);
  CHECK(code([](auto& s) { s = {}; }) == errc::null_pointer);
  CHECK(code([](auto& s) { s.position = nullptr; }) == errc::null_pointer);
  CHECK(code([](auto& s) { s.carried = nullptr; }) == errc::null_pointer);
  CHECK(code([](auto& s) { s.seen_length = nullptr; }) == errc::null_pointer);
  CHECK(code([](auto& s) { s.next_position = nullptr; }) == errc::null_pointer);
  CHECK(code([](auto& s) { s.step = nullptr; }) == errc::null_pointer);
  CHECK(code([](auto& s) { s.request_id = nullptr; }) == errc::null_pointer);
  CHECK(code([](auto& s) { s.seed = nullptr; }) == errc::null_pointer);
  CHECK(code([](auto& s) { s.flags = nullptr; }) == errc::null_pointer);
  CHECK(code([](auto& s) { s.started = nullptr; }) == errc::null_pointer);
  CHECK(code([](auto& s) { s.num_layers = 1; }) == errc::invalid_shape);
  CHECK(code([](auto& s) { s.num_sequences = 2; }) == errc::invalid_shape);
  CHECK(code([](auto& s) { s.num_kv_heads = 3; }) == errc::invalid_shape);
  CHECK(code([](auto& s) { s.capacity = 0; }) == errc::invalid_shape);
  CHECK(code([](auto& s) { s.num_carried = 1; }) == errc::invalid_shape);
  CHECK(code([](auto& s) { s.group = 4; }) == errc::invalid_shape);
  CHECK(code([](auto& s) {
          s.seed = reinterpret_cast<std::uint64_t*>(reinterpret_cast<std::uintptr_t>(s.seed) + 4);
        }) == errc::misaligned);
}
