// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <type_traits>

#include <foresightkv/scorer.hpp>
#include <foresightkv/scorers/foresight.hpp>
#include <foresightkv/scorers/window_sum.hpp>

#include "support/no_scorer.hpp"

namespace fkv = foresightkv;

namespace {

struct row_kind {
  using reads = fkv::statistics<fkv::sum>;
  static constexpr bool needs_time_order = true;
  static constexpr int scratch_rows = 3;
  template <class Block, class Row>
  FORESIGHTKV_HOST_DEVICE void operator()(Block const&, Row const& row, float* scores) const {
    for (int slot = 0; slot < row.length(); ++slot) scores[slot] = 0.0f;
  }
};
struct in_double {
  using reads = fkv::statistics<>;
  template <class Lanes, class Token>
  FORESIGHTKV_HOST_DEVICE double operator()(Lanes const&, Token const&) const {
    return 0.0;
  }
};
struct without_reads {
  template <class Lanes, class Token>
  FORESIGHTKV_HOST_DEVICE float operator()(Lanes const&, Token const&) const {
    return 0.0f;
  }
};
struct owns_memory : testing::no_scorer {
  ~owns_memory() {}
};
struct some_layers : testing::no_scorer {
  [[nodiscard]] constexpr bool covers(int layer) const { return layer % 2 == 0; }
  [[nodiscard]] fkv::status check(fkv::cache_shape const& shape) const {
    return shape.group == 3 ? fkv::status{fkv::errc::unsupported} : fkv::status{};
  }
};

}  // namespace

TEST_CASE("scorer: what satisfies the concepts") {
  static_assert(fkv::scorer<fkv::window_sum> && fkv::pointwise_scorer<fkv::window_sum> &&
                !fkv::row_scorer<fkv::window_sum>);
  static_assert(fkv::scorer<fkv::foresight<>> && fkv::pointwise_scorer<fkv::foresight<fkv::reference_checkpoint>>);
  static_assert(fkv::scorer<row_kind> && fkv::row_scorer<row_kind> && !fkv::pointwise_scorer<row_kind>);
  static_assert(!fkv::scorer<in_double> && !fkv::scorer<without_reads> && !fkv::scorer<owns_memory>);
  CHECK_FALSE(fkv::scorer<int>);
}

TEST_CASE("scorer: what it asks of a policy, where it says nothing") {
  namespace detail = fkv::detail;
  static_assert(detail::needs_time_order<row_kind>() && !detail::needs_time_order<fkv::window_sum>());
  static_assert(detail::scratch_rows<row_kind>() == 3 && detail::scratch_rows<fkv::window_sum>() == 0);
  static_assert(!detail::needs_queries<fkv::window_sum>());
  static_assert(std::is_same_v<detail::reads_of<row_kind>, fkv::statistics<fkv::sum>>);
  static_assert(std::is_same_v<detail::reads_of<without_reads>, fkv::statistics<>>);
  CHECK(detail::covers_layer(some_layers{}, 4));
  CHECK_FALSE(detail::covers_layer(some_layers{}, 5));
  CHECK(detail::covers_layer(fkv::window_sum{}, 5));
  CHECK(detail::check_part(some_layers{}, {.group = 3}).code == fkv::errc::unsupported);
  CHECK(detail::check_part(some_layers{}, {.group = 2}).ok());
  CHECK(detail::check_part(fkv::window_sum{}, {.group = 3}).ok());
}
