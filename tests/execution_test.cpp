// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <type_traits>

#include <foresightkv/execution.hpp>

namespace fkv = foresightkv;

namespace {

struct doubled {
  FORESIGHTKV_HOST_DEVICE constexpr int operator()(int value) const { return 2 * value; }
};

struct looks_like_host {
  int num_threads = 0;
};

}  // namespace

TEST_CASE("execution: threads() makes a tag of its own and leaves fkv::host as it is") {
  static_assert(fkv::host.num_threads == 0);
  static_assert(fkv::host.threads(3).num_threads == 3);
  constexpr auto two = fkv::host.threads(2);
  CHECK(two.threads(5).num_threads == 5);
  CHECK(two.num_threads == 2);
}

TEST_CASE("execution: only the host tag is a host executor") {
  static_assert(fkv::host_executor<std::remove_cvref_t<decltype(fkv::host)>>);
  static_assert(fkv::host_executor<decltype(fkv::host.threads(1))>);
  CHECK_FALSE(fkv::host_executor<looks_like_host>);
  CHECK_FALSE(fkv::host_executor<int>);
}

TEST_CASE("execution: the host-device macro leaves plain C++ as it is") {
  static_assert(doubled{}(21) == 42);
  CHECK(std::is_trivially_copyable_v<fkv::host_execution>);
}
