// SPDX-License-Identifier: Apache-2.0
// expect-error: foresightkv: a selector must be trivially copyable and have domain and void operator()(row) const
#include <foresightkv/foresightkv.hpp>

namespace fkv = foresightkv;

struct my_selector {
#ifndef SHOULD_FAIL
  static constexpr fkv::length_domain domain = fkv::length_domain::sequence;
#endif
  template <class Row>
  void operator()(Row& row) const {
    row.evict_lowest(row.count());
  }
};

auto policy = fkv::compose(fkv::eviction_config{}, fkv::window_sum{}, my_selector{}, fkv::ordered{});
