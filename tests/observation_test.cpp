// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <set>
#include <vector>

#include <foresightkv/observation.hpp>

namespace fkv = foresightkv;

namespace {

constexpr fkv::cache_shape shape{.num_layers = 2,
                                 .num_sequences = 3,
                                 .num_kv_heads = 2,
                                 .group = 2,
                                 .key_head_dim = 5,
                                 .value_head_dim = 3,
                                 .capacity = 7};
constexpr int most = 6;
constexpr int heads = shape.num_kv_heads * shape.group;

}  // namespace

TEST_CASE("observation: both layouts give each query elements and a log-sum-exp of its own") {
  std::vector<float> const queries(static_cast<std::size_t>(2 * 3 * heads * most * 5));
  std::vector<float> lse(queries.size() / 5);
  for (std::size_t i = 0; i < lse.size(); ++i) lse[i] = static_cast<float>(i);
  for (bool const hnd : {true, false}) {
    using view = fkv::observation<float>;
    auto const window =
        (hnd ? view::hnd(queries.data(), shape, most) : view::nhd(queries.data(), shape, most)).with_lse(lse.data());
    CHECK(window.max_queries == most);
    std::set<float const*> seen;
    int wrong = 0;
    for (int layer = 0; layer < 2; ++layer)
      for (int sequence = 0; sequence < 3; ++sequence)
        for (int head = 0; head < heads; ++head)
          for (int r = 0; r < most; ++r) {
            float const* const query = window.query({layer, sequence, head / shape.group}, head, r);
            seen.insert(query);
            auto const place = (query - queries.data()) / 5;
            wrong += window.log_sum_exp({layer, sequence, head / shape.group}, head, r) != static_cast<float>(place);
            int const block = layer * 3 + sequence;
            wrong += place != (hnd ? (block * heads + head) * most + r : (block * most + r) * heads + head);
          }
    CHECK(wrong == 0);
    CHECK(seen.size() == lse.size());
  }
}

TEST_CASE("observation: the base of a log-sum-exp is part of the type") {
  static_assert(fkv::observation<float>::base == fkv::log_base::natural);
  static_assert(fkv::observation<fkv::half, fkv::log_base::two>::base == fkv::log_base::two);
  static_assert(fkv::observation_window<fkv::observation<fkv::half, fkv::log_base::two>>);
  static_assert(fkv::observation_window<fkv::observed<fkv::statistics<fkv::sum>>>);
  CHECK_FALSE(fkv::observation_window<float const*>);
}

TEST_CASE("observation: what a verb refuses") {
  float const queries[64] = {};
  auto const code = [&](auto const& edit) {
    auto window = fkv::observation<float>::hnd(queries, shape, most);
    edit(window);
    return fkv::detail::check_window(window).code;
  };
  using fkv::errc;
  auto const shifted = []<class Pointer>(Pointer const* pointer) {
    return reinterpret_cast<Pointer const*>(reinterpret_cast<std::uintptr_t>(pointer) + 2);
  };
  std::int32_t const counts[4] = {};
  CHECK(code([](auto&) {}) == errc::ok);
  CHECK(code([](auto& w) { w.queries = nullptr; }) == errc::null_pointer);
  CHECK(code([](auto& w) {
          w.queries = nullptr;
          w.max_queries = 0;
        }) == errc::ok);
  CHECK(code([](auto& w) { w.max_queries = -1; }) == errc::invalid_shape);
  for (float const bad : {-1.0f, std::nanf(""), std::numeric_limits<float>::infinity()}) {
    CHECK(code([&](auto& w) { w.softmax_scale = bad; }) == errc::invalid_shape);
    CHECK(code([&](auto& w) { w.soft_cap = bad; }) == errc::invalid_shape);
  }
  CHECK(code([&](auto& w) { w.queries = shifted(queries); }) == errc::misaligned);
  CHECK(code([&](auto& w) { w.lse = shifted(queries); }) == errc::misaligned);
  CHECK(code([&](auto& w) { w.sink_logits = shifted(queries); }) == errc::misaligned);
  CHECK(code([&](auto& w) { w.query_count = shifted(counts); }) == errc::misaligned);
  CHECK(code([&](auto& w) { w.window_end = shifted(counts); }) == errc::misaligned);
  CHECK(code([&](auto& w) { w.first_position = shifted(counts); }) == errc::misaligned);

  using list = fkv::statistics<fkv::sum>;
  float values[4] = {};
  CHECK(fkv::detail::check_window(fkv::observed<list>{{values, 2}}).ok());
  CHECK(fkv::detail::check_window(fkv::observed<list>{{nullptr, 2}}).code == errc::null_pointer);
  CHECK(fkv::detail::check_window(fkv::observed<list>{{values, -1}}).code == errc::invalid_shape);
  CHECK(fkv::detail::check_window(fkv::observed<fkv::statistics<>>{}).ok());
}
