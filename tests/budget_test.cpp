// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <foresightkv/budget.hpp>

#include "support/tight_budget.hpp"

namespace fkv = foresightkv;

namespace {

struct without_domain {
  int operator()(fkv::eviction_config const&, fkv::cache_shape const&, fkv::row_index) const { return 1; }
};
struct counts_in_floats {
  static constexpr fkv::length_domain domain = fkv::length_domain::row;
  float operator()(fkv::eviction_config const&, fkv::cache_shape const&, fkv::row_index) const { return 1.0f; }
};

}  // namespace

TEST_CASE("budget: what satisfies the concept") {
  static_assert(fkv::budget<testing::tight_budget>);
  static_assert(!fkv::budget<without_domain>);
  static_assert(!fkv::budget<counts_in_floats>);
  CHECK_FALSE(fkv::budget<int>);
}
