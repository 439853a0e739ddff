// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <foresightkv/foresightkv.hpp>
#include <foresightkv/verbs/collect_due.hpp>
#include <vector>

#include "support/state_fixture.hpp"

namespace fkv = foresightkv;
using testing::carried_policy;
using testing::state_fixture;

namespace {

constexpr fkv::cache_shape shape{.num_layers = 1,
                                 .num_sequences = 6,
                                 .num_kv_heads = 2,
                                 .group = 1,
                                 .key_head_dim = 2,
                                 .value_head_dim = 2,
                                 .capacity = 64};
constexpr fkv::eviction_config config{.budget = 16, .interval = 4};

template <class Compaction>
struct setting {
  explicit setting(std::vector<std::int32_t> row_lengths)
      : lengths(std::move(row_lengths)), tokens(static_cast<std::size_t>(6 * 2 * 64 * 2)), state(shape, 32) {}

  fkv::status collect(fkv::sequence_list const& list) {
    return fkv::collect_due(testing::exec, fkv::batch{rule, cache(), list, state.state}, due.data(), count.data());
  }
  [[nodiscard]] auto cache() {
    return fkv::dense_cache<float>::hnd(tokens.data(), tokens.data(), lengths.data(), shape);
  }
  [[nodiscard]] std::vector<std::int32_t> listed() const { return {due.begin(), due.begin() + count[0]}; }

  std::vector<std::int32_t> lengths;
  std::vector<float> tokens;
  carried_policy<Compaction> rule{config};
  state_fixture<carried_policy<Compaction>> state;
  std::vector<std::int32_t> due = std::vector<std::int32_t>(6, -7);
  std::vector<std::int32_t> count{-1};
};

}  // namespace

TEST_CASE("collect_due lists the sequences at budget + interval, in the order given") {
  setting<fkv::ordered> made({19, 20, 0, 64, 21, -1});
  CHECK(made.collect({nullptr, nullptr, 6, 64}).ok());
  CHECK(made.listed() == std::vector<std::int32_t>{1, 3, 4});
  CHECK(made.state.state.flags[5] == static_cast<std::uint32_t>(fkv::sequence_flag::bad_length));

  std::vector<std::int32_t> const slots{4, 0, 1, 9};
  std::vector<std::int32_t> const given{3};
  CHECK(made.collect({slots.data(), given.data(), 4, 64}).ok());
  CHECK(made.listed() == std::vector<std::int32_t>{4, 1});

  CHECK(made.collect({nullptr, nullptr, 6, 63}).ok());  // slot 3 is longer than was promised
  CHECK(made.listed() == std::vector<std::int32_t>{1, 4});
}

TEST_CASE("collect_due does not count empty slots") {
  setting<fkv::slot_list> made({20, 20, 0, 0, 0, 0});
  std::vector<int> positions;
  for (int slot = 0; slot < 20; ++slot) positions.push_back(slot == 3 ? -1 : slot);
  for (int head = 0; head < 2; ++head) made.state.after_eviction(made.state.state.row({0, 0, head}), positions, 20);
  CHECK(made.collect({nullptr, nullptr, 6, 64}).ok());
  CHECK(made.listed() == std::vector<std::int32_t>{1});
}

TEST_CASE("collect_due refuses bad arguments and writes nothing") {
  setting<fkv::ordered> made({20, 20, 20, 20, 20, 20});
  auto const before = made.state.snapshot();
  made.rule.config.sink_tokens = 16;
  CHECK(made.collect({nullptr, nullptr, 6, 64}).code == fkv::errc::invalid_config);
  made.rule.config = config;
  CHECK(made.collect({nullptr, nullptr, -1, 64}).code == fkv::errc::invalid_shape);
  CHECK(fkv::collect_due(testing::exec,
                         fkv::batch{made.rule, made.cache(), {nullptr, nullptr, 6, 64}, made.state.state}, nullptr,
                         made.count.data())
            .code == fkv::errc::null_pointer);
  CHECK(fkv::collect_due(testing::exec,
                         fkv::batch{made.rule, made.cache(), {nullptr, nullptr, 6, 64}, made.state.state},
                         made.due.data(), nullptr)
            .code == fkv::errc::null_pointer);
  CHECK(made.due == std::vector<std::int32_t>(6, -7));
  CHECK(made.count[0] == -1);
  CHECK(made.state.snapshot() == before);
}
