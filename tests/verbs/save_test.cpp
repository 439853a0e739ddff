// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <cstring>
#include <foresightkv/foresightkv.hpp>
#include <foresightkv/verbs/save.hpp>
#include <vector>

#include "support/random.hpp"
#include "support/state_fixture.hpp"

namespace fkv = foresightkv;
using policy = testing::carried_policy<fkv::ordered>;
using fixture_type = testing::state_fixture<policy>;

namespace {

constexpr fkv::cache_shape shape{.num_layers = 2,
                                 .num_sequences = 3,
                                 .num_kv_heads = 2,
                                 .group = 2,
                                 .key_head_dim = 4,
                                 .value_head_dim = 4,
                                 .capacity = 64};

std::vector<std::byte> saved_bytes(fkv::row_state const& state, int sequence) {
  std::vector<std::byte> buffer(fkv::save_bytes(state) + 1);
  // One byte off: the format asks for no alignment.
  CHECK(fkv::save(testing::exec, state, sequence, {buffer.data() + 1, buffer.size() - 1}).ok());
  return {buffer.begin() + 1, buffer.end()};
}

fkv::status restore(fkv::row_state const& state, int sequence, std::vector<std::byte>& bytes) {
  return fkv::restore(testing::exec, state, sequence, {bytes.data(), bytes.size()});
}

void fill(fixture_type const& fixture, int sequence) {
  auto const& state = fixture.state;
  for (int layer = 0; layer < 2; ++layer)
    for (int head = 0; head < 2; ++head)
      fixture.after_eviction(state.row({layer, sequence, head}), {layer, 3 + head, 8, 11}, 12 + layer);
  state.request_id[sequence] = 77;
  state.seed[sequence] = 0x123456789abcdefull;
  state.flags[sequence] = 5;
}

}  // namespace

TEST_CASE("a saved sequence comes back in another slot, and in a state of another capacity") {
  fixture_type source(shape, 8);
  fill(source, 1);
  auto saved = saved_bytes(source.state, 1);
  for (int capacity : {4, 8, 21}) {
    fixture_type target(shape, capacity);
    CHECK(restore(target.state, 2, saved).ok());
    for (int layer = 0; layer < 2; ++layer)
      for (int head = 0; head < 2; ++head) {
        int const from = source.state.row({layer, 1, head});
        int const to = target.state.row({layer, 2, head});
        CHECK(target.positions(to) == source.positions(from));
        CHECK(target.state.next_position[to] == 12 + layer);
        CHECK(target.state.step[to] == 1);
        for (int slot = 0; slot < 4; ++slot)
          for (int i = 0; i < 4; ++i)
            CHECK(target.state.carried_at(to, slot)[i] == source.state.carried_at(from, slot)[i]);
      }
    CHECK(target.state.request_id[2] == 77);
    CHECK(target.state.seed[2] == 0x123456789abcdefull);
    CHECK(target.state.flags[2] == 5);
    CHECK(target.state.seen_length[target.state.row({0, 1, 0})] == 0);
  }
}

namespace {

/// Whether saved bytes were refused for what they hold: a device says so by a flag, which this takes back.
bool refuses(fkv::row_state const& state, int sequence, std::vector<std::byte>& bytes, fkv::errc reason) {
  fkv::status const done = restore(state, sequence, bytes);
  if (testing::reads_device_data) return done.code == reason;
  auto const flag = static_cast<std::uint32_t>(fkv::sequence_flag::bad_length);
  bool const flagged = done.ok() && state.flags[sequence] == flag;
  if (flagged) state.flags[sequence] = 0;
  return flagged;
}

}  // namespace

TEST_CASE("restore refuses what does not fit and writes nothing") {
  fixture_type source(shape, 8);
  fill(source, 0);
  auto const saved = saved_bytes(source.state, 0);
  fixture_type target(shape, 8);
  auto const before = target.snapshot();

  auto bytes = saved;
  CHECK(restore(target.state, 3, bytes).code == fkv::errc::invalid_shape);
  CHECK(restore(target.state, -1, bytes).code == fkv::errc::invalid_shape);
  bytes.pop_back();
  CHECK(refuses(target.state, 0, bytes, fkv::errc::workspace_too_small));
  bytes.resize(3);
  CHECK(restore(target.state, 0, bytes).code == fkv::errc::workspace_too_small);
  CHECK(fkv::restore(testing::exec, target.state, 0, {nullptr, saved.size()}).code == fkv::errc::null_pointer);
  bytes = saved;
  bytes[0] ^= std::byte{1};  // another version
  CHECK(refuses(target.state, 0, bytes, fkv::errc::invalid_shape));

  fixture_type other(fkv::cache_shape{.num_layers = 2,
                                      .num_sequences = 3,
                                      .num_kv_heads = 2,
                                      .group = 1,
                                      .key_head_dim = 4,
                                      .value_head_dim = 4,
                                      .capacity = 64},
                     8);
  bytes = saved;
  CHECK(refuses(other.state, 0, bytes, fkv::errc::invalid_shape));
  fixture_type small(shape, 3);  // four tokens are stored
  CHECK(refuses(small.state, 0, bytes, fkv::errc::invalid_shape));
  CHECK(target.snapshot() == before);
}

TEST_CASE("a damaged saved sequence is refused or restored whole: its counts never reach beyond the columns") {
  fixture_type source(shape, 8);
  fill(source, 0);
  auto const saved = saved_bytes(source.state, 0);
  testing::random_source random(20);
  int refused = 0;
  for (int round = 0; round < 500; ++round) {
    auto bytes = saved;
    // Header and row records: what restore believes.
    auto const at = static_cast<std::size_t>(
        random.integer(0, static_cast<int>(fkv::detail::saved_sequence::positions(source.state)) - 1));
    bytes[at] ^= static_cast<std::byte>(1u << random.integer(0, 7));
    fixture_type target(shape, 8);
    auto const reason = restore(target.state, 1, bytes);
    refused += !reason.ok() || target.state.flags[1] == static_cast<std::uint32_t>(fkv::sequence_flag::bad_length);
    for (int layer = 0; layer < 2; ++layer)
      for (int head = 0; head < 2; ++head) {
        int const row = target.state.row({layer, 1, head});
        CHECK(target.state.seen_length[row] >= 0);
        bool const stored = target.state.seen_length[row] <= 8 || target.state.step[row] == 0;
        CHECK(stored);
      }
  }
  CHECK(refused > 100);
}

TEST_CASE("save refuses bad arguments and writes nothing") {
  fixture_type source(shape, 8);
  std::vector<std::byte> buffer(fkv::save_bytes(source.state), std::byte{0x11});
  auto const before = buffer;
  CHECK(fkv::save(testing::exec, source.state, 3, {buffer.data(), buffer.size()}).code == fkv::errc::invalid_shape);
  CHECK(fkv::save(testing::exec, source.state, 0, {buffer.data(), buffer.size() - 1}).code ==
        fkv::errc::workspace_too_small);
  CHECK(fkv::save(testing::exec, source.state, 0, {nullptr, buffer.size()}).code == fkv::errc::null_pointer);
  CHECK(fkv::save(testing::exec, fkv::row_state{}, 0, {buffer.data(), buffer.size()}).code == fkv::errc::null_pointer);
  CHECK(buffer == before);
}

TEST_CASE("a pristine row longer than the columns is saved as it is: its positions are implicit") {
  fixture_type source(shape, 4);
  std::vector<std::int32_t> const counts{9, 0, 0};
  std::vector<float> token(1);
  auto lengths = counts;
  auto const cache = fkv::dense_cache<float>::hnd(token.data(), token.data(), lengths.data(), shape);
  CHECK(fkv::append(testing::exec, fkv::batch{policy{}, cache, {nullptr, nullptr, 3, 64}, source.state}, counts.data())
            .ok());
  auto saved = saved_bytes(source.state, 0);
  fixture_type target(shape, 4);
  CHECK(restore(target.state, 1, saved).ok());
  CHECK(target.state.seen_length[target.state.row({1, 1, 1})] == 9);
  CHECK(target.state.next_position[target.state.row({1, 1, 1})] == 9);
}

TEST_CASE("a row of more slots than positions before its next one is restored: the rest are empty") {
  using sparse = testing::carried_policy<fkv::slot_list>;
  testing::state_fixture<sparse> source(shape, 8), target(shape, 8);
  std::vector<std::int32_t> const columns{0, -1, -1, -1, 4, 5};
  auto const rows = [&](auto const& body) {
    for (int layer = 0; layer < 2; ++layer)
      for (int head = 0; head < 2; ++head) body(fkv::row_index{layer, 0, head});
  };
  rows([&](fkv::row_index at) { source.after_eviction(source.state.row(at), columns, 6); });
  std::vector<std::int32_t> const back{-2, 0, 0}, lengths{6, 0, 0};
  std::vector<float> token(1);
  auto const cache = fkv::dense_cache<float>::hnd(token.data(), token.data(), lengths.data(), shape);
  REQUIRE(fkv::append(testing::exec, fkv::batch{sparse{}, cache, {nullptr, nullptr, 3, 64}, source.state}, back.data())
              .ok());
  auto saved = saved_bytes(source.state, 0);
  CHECK(restore(target.state, 0, saved).ok());
  rows([&](fkv::row_index at) {
    int const row = source.state.row(at);
    CHECK(target.positions(row) == source.positions(row));
    CHECK(target.state.next_position[row] == source.state.next_position[row]);
    CHECK(target.state.seen_length[row] == source.state.seen_length[row]);
  });
}
