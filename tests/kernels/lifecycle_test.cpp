// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <typeinfo>
#include <vector>

#include <foresightkv/detail/kernels/lifecycle.hpp>
#include <foresightkv/verbs/append.hpp>
#include <foresightkv/verbs/fork.hpp>
#include <foresightkv/verbs/reset.hpp>
#include <foresightkv/verbs/save.hpp>

#include "emulation/emulated_execution.hpp"
#include "support/harness.hpp"
#include "support/random_window.hpp"
#include "support/state_fixture.hpp"

namespace fkv = foresightkv;
namespace kernels = fkv::detail::kernels;
using device = kernels::lifecycle<testing::emulated_execution>;
using fkv::detail::saved_sequence;
using testing::block_faults;
using testing::random_source;

namespace {

constexpr int lowest = std::numeric_limits<int>::min();
constexpr int highest = std::numeric_limits<int>::max();

struct plain_scorer {
  using reads = fkv::statistics<>;
  template <class Lanes, class Token>
  FORESIGHTKV_HOST_DEVICE float operator()(Lanes const&, Token const&) const {
    return 0.0f;
  }
};
using carrying = testing::carried_policy<fkv::slot_list>;
using plain = fkv::policy<fkv::eviction_config, plain_scorer, fkv::top_k, fkv::slot_list>;

/// What happened to a row before.
enum class history { pristine, ordered, filled, holes, full };

/// No verb here looks at a cache.
constexpr fkv::cache_shape small_shape{.key_head_dim = 1, .value_head_dim = 1, .capacity = 1};

/// As much of a cache as append looks at.
struct bare_cache {
  fkv::cache_shape extents{};
  std::int32_t const* lengths = nullptr;  // [row]
  [[nodiscard]] fkv::cache_shape const& shape() const { return extents; }
  [[nodiscard]] int length(fkv::row_index at) const { return lengths[extents.row(at)]; }
};
using append_kernel = kernels::append_kernel<bare_cache>;

/// Lengths of the rows of a cache: those that the state has seen, unless they are written over.
struct row_lengths {
  fkv::cache_shape shape = small_shape;
  testing::guarded<std::int32_t> of;

  explicit row_lengths(fkv::row_state const& state) : of(static_cast<std::size_t>(state.num_rows())) {
    shape.num_layers = state.num_layers;
    shape.num_sequences = state.num_sequences;
    shape.num_kv_heads = state.num_kv_heads;
    shape.capacity = highest;
    std::copy_n(state.seen_length, of.size(), of.data());
  }
  [[nodiscard]] bare_cache view() const { return {shape, of.data()}; }
  [[nodiscard]] int sequence_of(int row) const { return row / shape.num_kv_heads % shape.num_sequences; }

  /// As an engine has them that wrote so many tokens, [sequence], before it said so.
  row_lengths& after(std::vector<std::int32_t> const& counts) {
    for (int row = 0; row < shape.num_rows(); ++row)
      of[static_cast<std::size_t>(row)] += std::max(0, counts[static_cast<std::size_t>(sequence_of(row))]);
    return *this;
  }
};

fkv::cache_shape random_extents(random_source& random) {
  fkv::cache_shape shape = small_shape;
  shape.num_layers = random.integer(1, 4);
  shape.num_sequences = random.integer(1, 6);
  shape.num_kv_heads = random.integer(1, 8);
  shape.group = random.integer(1, 5);
  return shape;
}

int random_capacity(random_source& random) {
  return random.chance(0.1) ? random.integer(250, 600) : random.integer(1, 70);
}

void fill_row(random_source& random, fkv::row_state const& state, int row, history kind) {
  int const longest = kind == history::pristine ? 2 * state.capacity
                      : kind == history::holes  ? state.capacity * 3 / 4
                                                : state.capacity;
  int const length = kind == history::full ? state.capacity : random.integer(0, longest);
  bool const far = random.chance(0.02);
  state.seen_length[row] = length;
  state.step[row] = kind == history::pristine ? 0 : static_cast<std::uint32_t>(random.integer(1, 9));
  state.next_position[row] = kind == history::pristine ? length
                             : far                     ? highest - random.integer(0, 4)
                                                       : 3 * length + random.integer(0, 3);
  int const slots = std::min(length, state.capacity);
  std::vector<int> positions(static_cast<std::size_t>(slots));
  bool const empty = kind == history::holes || (kind == history::full && random.chance(0.5));
  testing::random_positions(random, kind == history::ordered, empty, positions);
  std::copy(positions.begin(), positions.end(), state.position + state.column(row, 0));
  for (int i = 0; i < slots * state.num_carried * state.group; ++i) state.carried_at(row, 0)[i] = random.normal();
}

/// A state of rows with every history, of which most have just got tokens: so many were to join.
template <class Policy>
testing::owned_state<Policy> random_state(random_source& random, fkv::cache_shape const& shape, int capacity,
                                          std::vector<std::int32_t>& joined) {
  testing::owned_state<Policy> made(shape, capacity);
  fkv::row_state const& state = made.view;
  joined.clear();
  for (int sequence = 0; sequence < shape.num_sequences; ++sequence) {
    bool const alike = random.chance(0.8);
    auto const draw = [&] { return static_cast<history>(random.integer(0, static_cast<int>(history::full))); };
    history const common = draw();
    for (int layer = 0; layer < shape.num_layers; ++layer)
      for (int head = 0; head < shape.num_kv_heads; ++head)
        fill_row(random, state, state.row({layer, sequence, head}), alike ? common : draw());
    state.request_id[sequence] = static_cast<std::uint32_t>(random.bits());
    state.seed[sequence] = random.bits();
    state.flags[sequence] = random.chance(0.5) ? 0u : static_cast<std::uint32_t>(random.integer(0, 255));
    joined.push_back(random.chance(0.2) ? 0 : random.integer(1, random.chance(0.2) ? 70 : 12));
  }
  auto const lengths = row_lengths(made.view).after(joined);
  auto const all = fkv::sequence_list{nullptr, nullptr, shape.num_sequences, 0};
  REQUIRE(fkv::detail::host::lifecycle::append(fkv::host, lengths.view(), made.view, all, joined.data(), true).ok());
  return made;
}

/// A list of sequences with all that an engine may do wrong, in memory without a byte to spare.
struct random_list {
  testing::guarded<std::int32_t> slots, count;
  bool listed, counted;
  int max_count;

  random_list(random_source& random, int num_sequences)
      : count(1),
        listed(random.chance(0.8)),
        counted(random.chance(0.4)),
        max_count(random.integer(0, 2 * num_sequences)) {
    if (random.chance(0.02)) max_count = 90;
    slots = testing::guarded<std::int32_t>(static_cast<std::size_t>(max_count));
    int const odd[] = {-1, num_sequences, lowest, highest};
    for (auto& slot : slots)
      slot = random.chance(0.1) ? odd[random.integer(0, 3)] : random.integer(0, num_sequences - 1);
    count[0] = random.integer(-1, max_count + 2);
  }
  [[nodiscard]] fkv::sequence_list view() const {
    return {listed ? slots.data() : nullptr, counted ? count.data() : nullptr, max_count, 0};
  }
};

testing::emulated_execution emulated(random_source& random, testing::launch_log& log, block_faults const& faults = {}) {
  testing::emulated_execution made;
  made.options.seed = random.bits();
  made.options.resident_blocks = random.integer(1, 3);
  made.options.faults = faults;
  made.log = &log;
  return made;
}

/// One call on both backends, on the same state.
template <class Policy>
struct both {
  random_source random;
  std::vector<std::int32_t> joined;  // before, if there was room
  testing::owned_state<Policy> on_host, on_device;
  testing::launch_log log;
  testing::emulated_execution exec;

  explicit both(std::uint64_t seed, block_faults const& faults = {}) : both(seed, nullptr, 0, faults) {}
  both(std::uint64_t seed, fkv::cache_shape const* shape, int capacity, block_faults const& faults = {})
      : random(seed) {
    fkv::cache_shape const extents = shape == nullptr ? random_extents(random) : *shape;
    on_host = random_state<Policy>(random, extents, shape == nullptr ? random_capacity(random) : capacity, joined);
    on_device = on_host;
    exec = emulated(random, log, faults);
  }
  both(both const&) = delete;

  [[nodiscard]] int num_sequences() const { return on_host.shape.num_sequences; }
  [[nodiscard]] bool agree() const {
    return on_host.memory.same_bytes(on_device.memory) && on_host.intact() && on_device.intact();
  }

  void reset() {
    random_list const list(random, num_sequences());
    auto const entries = static_cast<std::size_t>(num_sequences());
    testing::guarded<std::uint32_t> ids(entries);
    testing::guarded<std::uint64_t> seeds(entries);
    for (auto& id : ids) id = static_cast<std::uint32_t>(random.bits());
    for (auto& seed : seeds) seed = random.bits();
    auto const* const some_ids = random.chance(0.5) ? ids.data() : nullptr;
    auto const* const some_seeds = random.chance(0.5) ? seeds.data() : nullptr;
    REQUIRE(fkv::reset(fkv::host, on_host.view, list.view(), some_ids, some_seeds).ok());
    finish(device::reset(exec, on_device.view, list.view(), some_ids, some_seeds));
  }

  void append(bool empties = true) {
    random_list const list(random, num_sequences());
    testing::guarded<std::int32_t> counts(static_cast<std::size_t>(num_sequences()));
    int const odd[] = {0, lowest, lowest + 1, highest, highest - 1};
    int const most = std::min(40, on_host.view.capacity + 2);
    for (std::size_t sequence = 0; sequence < counts.size(); ++sequence) {
      bool const back = random.chance(0.5) && joined[sequence] > 0;
      counts[sequence] = back ? -random.integer(1, joined[sequence]) : random.integer(-3, most);
      if (random.chance(0.1)) counts[sequence] = odd[random.integer(0, 4)];
    }
    // Mostly as an engine has them that wrote its tokens, or took them off, before it said so; some rows were longer
    // than was seen.
    row_lengths lengths(on_host.view);
    bool const honest = random.chance(0.7);
    for (int row = 0; row < on_host.view.num_rows(); ++row) {
      auto& length = lengths.of[static_cast<std::size_t>(row)];
      int const count = counts[static_cast<std::size_t>(lengths.sequence_of(row))];
      bool const slots_stay = empties && on_host.view.step[row] != 0;
      if (!slots_stay && count < 0 && count > -100000)
        length = std::max(length + count + (random.chance(0.2) ? 1 : 0), honest ? 0 : -1);
      if (count > 0 && count < 100000) length += count;
      if (!honest) length += random.integer(-1, 1);
    }
    auto const tokens = lengths.view();
    REQUIRE(fkv::detail::host::lifecycle::append(fkv::host, tokens, on_host.view, list.view(), counts.data(), empties)
                .ok());
    finish(device::append(exec, tokens, on_device.view, list.view(), counts.data(), empties));
  }

  void fork() {
    int const count = random.integer(0, random.chance(0.7) ? 4 : 20);
    testing::guarded<std::int32_t> sources(static_cast<std::size_t>(count)), targets(static_cast<std::size_t>(count));
    // Of many targets most are out of range: else all would clash.
    double const missing = count <= 4 ? 0.1 : 0.7;
    for (auto& source : sources) source = random.integer(-1, num_sequences());
    for (auto& target : targets) target = random.chance(missing) ? -1 : random.integer(0, num_sequences());
    // Chains: a source that is another pair's target.
    for (std::size_t i = 1; i < sources.size(); ++i)
      if (random.chance(0.4)) sources[i] = targets[i - 1];
    REQUIRE(fkv::fork(fkv::host, on_host.view, {sources.data(), targets.data(), count}).ok());
    finish(device::fork(exec, on_device.view, {sources.data(), targets.data(), count}));
  }

  /// Saves a sequence on both; the bytes, at any alignment.
  testing::guarded<std::byte> save() {
    int const sequence = random.integer(0, num_sequences() - 1);
    auto const shift = static_cast<std::size_t>(random.integer(0, 17));
    testing::guarded<std::byte> first(fkv::save_bytes(on_host.view)), second(first.size(), shift);
    REQUIRE(fkv::save(fkv::host, on_host.view, sequence, {first.data(), first.size()}).ok());
    finish(device::save(exec, on_device.view, sequence, second.data()));
    CHECK(first.same_bytes(second));
    CHECK((first.intact() && second.intact()));
    return second;
  }

  /// Restores bytes on both; whether they fit. A device answers by a flag.
  bool restore(testing::guarded<std::byte>& saved, std::size_t size) {
    int const sequence = random.integer(0, num_sequences() - 1);
    fkv::workspace const bytes{saved.data(), size};
    auto const answer = fkv::restore(fkv::host, on_host.view, sequence, bytes);
    finish(device::restore(exec, on_device.view, sequence, bytes));
    auto const flag = static_cast<std::uint32_t>(fkv::sequence_flag::bad_length);
    if (!answer.ok()) on_host.view.flags[sequence] |= flag;
    return answer.ok();
  }

 private:
  /// Apart from the call: what a body throws passes through no assertion.
  static void finish(fkv::status done) { REQUIRE(done.ok()); }
};

/// Whether a call goes wrong, or its body breaks a rule of its context, at one of many seeds.
template <class Call>
bool shows(block_faults const& faults, Call const& call) {
  for (std::uint64_t seed = 0; seed < 300; ++seed) try {
      both<carrying> made(seed, faults);
      call(made);
      if (!made.agree()) return true;
    } catch (testing::block_misuse const&) {
      return true;
    }
  return false;
}

template <class Policy, class Call>
void check_seeds(std::uint64_t first, int count, Call const& call) {
  for (std::uint64_t seed = first; seed < first + static_cast<std::uint64_t>(count); ++seed) {
    CAPTURE(seed);
    both<Policy> made(seed);
    call(made);
    CHECK(made.agree());
    CHECK(made.log.size() <= 1);
  }
}

}  // namespace

TEST_CASE("reset leaves the same bytes as on the host") {
  check_seeds<carrying>(100, 60, [](auto& made) { made.reset(); });
}

TEST_CASE("append leaves the same bytes as on the host") {
  check_seeds<carrying>(200, 200, [](auto& made) { made.append(); });
  check_seeds<plain>(600, 60, [](auto& made) { made.append(); });
}

TEST_CASE("append does not look for empty slots where none can be") {
  check_seeds<carrying>(700, 80, [](auto& made) { made.append(false); });
}

TEST_CASE("append, again and again: what joined leaves and joins again") {
  for (std::uint64_t seed = 900; seed < 915; ++seed) {
    CAPTURE(seed);
    both<carrying> made(seed);
    for (int step = 0; step < 12; ++step) made.append();
    CHECK(made.agree());
    CHECK(made.log.size() <= 12);
  }
}

TEST_CASE("append: many tokens that join and leave again leave no trace, unless one of them has moved") {
  fkv::cache_shape shape = small_shape;
  shape.num_kv_heads = 3;
  constexpr int seen = 150, capacity = 300;
  fkv::sequence_list const all{nullptr, nullptr, 1, 0};
  for (std::uint64_t seed = 950; seed < 974; ++seed) {
    CAPTURE(seed);
    both<carrying> made(seed, &shape, capacity);
    fkv::row_state const& state = made.on_device.view;
    state.flags[0] = 0;
    for (int row = 0; row < 3; ++row) {
      state.step[row] = 1;
      state.seen_length[row] = seen;
      state.next_position[row] = 2 * seen;
      // The last slot holds a token: of empty slots at the end nothing is left when tokens leave.
      for (int slot = 0; slot < seen; ++slot)
        fkv::detail::place_token(state, row, slot, slot < seen - 1 && made.random.chance(0.2) ? -1 : 2 * slot);
    }
    auto const before = made.on_device;
    std::int32_t const joins = made.random.integer(60, 120), leaves = -joins;
    bool const empties = made.random.chance(0.5), moves = !empties && made.random.chance(0.5);
    row_lengths lengths(state);
    std::vector<std::int32_t> const joining{joins}, leaving{leaves};
    auto const longer = row_lengths(lengths).after(joining);
    REQUIRE(device::append(made.exec, longer.view(), state, all, joining.data(), empties).ok());
    int const newer = state.seen_length[1] - made.random.integer(1, 55);
    if (moves) std::swap(state.position[state.column(1, 0)], state.position[state.column(1, newer)]);
    auto const joined = made.on_device;
    if (empties) lengths = row_lengths(state);  // there slots stay
    REQUIRE(device::append(made.exec, lengths.view(), state, all, leaving.data(), empties).ok());
    CHECK(state.flags[0] == (moves ? static_cast<std::uint32_t>(fkv::sequence_flag::length_mismatch) : 0u));
    state.flags[0] = 0;
    for (int row = 0; empties && row < 3; ++row) {
      for (int slot = seen; slot < state.seen_length[row]; ++slot) CHECK(state.position[state.column(row, slot)] == -1);
      state.seen_length[row] = seen;
    }
    CHECK(same_state(state, moves ? joined.view : before.view));
    CHECK(made.on_device.intact());
  }
}

TEST_CASE("append: a sequence of more rows than a block has threads") {
  fkv::cache_shape shape = small_shape;
  shape.num_layers = 31;
  shape.num_sequences = 2;
  shape.num_kv_heads = 20;
  static_assert(31 * 20 > append_kernel::threads);
  for (std::uint64_t seed = 0; seed < 12; ++seed) {
    CAPTURE(seed);
    both<carrying> made(seed, &shape, 12);
    std::vector<std::int32_t> const counts{2, -1};
    // All rows alike, but for the last one of a sequence that shall not change.
    bool const refuse = seed % 2 == 0;
    for (auto* owned : {&made.on_host, &made.on_device})
      for (int row = 0; row < shape.num_rows(); ++row) {
        auto const& state = owned->view;
        state.seen_length[row] = 10;
        state.next_position[row] = 30;
        state.step[row] = 1;
        for (int slot = 0; slot < 10; ++slot) state.position[state.column(row, slot)] = 20 + slot;
        bool const last = row == state.row({30, 0, 19}) || row == state.row({30, 1, 19});
        if (refuse && last) state.seen_length[row] = 11;
        if (refuse && last) state.position[state.column(row, 10)] = 3;
      }
    fkv::sequence_list const all{nullptr, nullptr, 2, 0};
    auto const lengths = row_lengths(made.on_host.view).after(counts);
    using host = fkv::detail::host::lifecycle;
    REQUIRE(host::append(fkv::host, lengths.view(), made.on_host.view, all, counts.data(), true).ok());
    REQUIRE(device::append(made.exec, lengths.view(), made.on_device.view, all, counts.data(), true).ok());
    CHECK(made.agree());
    CHECK(made.on_device.view.next_position[0] == (refuse ? 30 : 32));
  }
}

TEST_CASE("fork leaves the same bytes as on the host") {
  check_seeds<carrying>(1000, 200, [](auto& made) { made.fork(); });
  check_seeds<plain>(1300, 40, [](auto& made) { made.fork(); });
}

TEST_CASE("save writes the same bytes as on the host") {
  check_seeds<carrying>(1400, 60, [](auto& made) { (void)made.save(); });
  check_seeds<plain>(1500, 20, [](auto& made) { (void)made.save(); });
}

TEST_CASE("restore leaves the same bytes as on the host, in a state of any capacity") {
  int fitted = 0;
  for (std::uint64_t seed = 1600; seed < 1720; ++seed) {
    CAPTURE(seed);
    both<carrying> source(seed);
    auto saved = source.save();
    auto const capacity = source.random.chance(0.4) ? source.on_host.view.capacity : random_capacity(source.random);
    both<carrying> target(seed + 1, &source.on_host.shape, capacity);
    fitted += target.restore(saved, saved.size());
    CHECK(target.agree());
    CHECK(target.log.size() == 1);
  }
  CHECK(fitted > 40);
  CHECK(fitted < 110);
}

TEST_CASE("restore takes damaged bytes as the host does, or flags the sequence") {
  int fitted = 0;
  for (std::uint64_t seed = 1800; seed < 2000; ++seed) {
    CAPTURE(seed);
    both<carrying> made(seed);
    auto saved = made.save();
    made.log.clear();
    auto size = saved.size();
    if (made.random.chance(0.2)) {
      auto const least = static_cast<int>(sizeof(saved_sequence::header));
      size = static_cast<std::size_t>(made.random.integer(least, static_cast<int>(size)));
    } else {
      // Header and row records: what restore believes.
      auto const believed = static_cast<int>(saved_sequence::positions(made.on_host.view));
      auto const at = static_cast<std::size_t>(made.random.integer(0, believed - 1));
      saved[at] ^= static_cast<std::byte>(1u << made.random.integer(0, 7));
    }
    fitted += made.restore(saved, size);
    CHECK(made.agree());
  }
  CHECK(fitted > 10);
  CHECK(fitted < 150);
}

TEST_CASE("restore sees without the device that there is no header") {
  both<plain> made(1);
  auto saved = made.save();
  fkv::workspace const bytes{saved.data(), sizeof(saved_sequence::header) - 1};
  auto const answer = device::restore(made.exec, made.on_device.view, 0, bytes);
  CHECK(answer.code == fkv::errc::workspace_too_small);
  CHECK(made.agree());
}

TEST_CASE("every barrier of these kernels is needed") {
  using kernels::fork_kernel, kernels::restore_kernel;
  auto const append = [](auto& made) { made.append(); };
  auto const fork = [](auto& made) { made.fork(); };
  auto const restore = [](auto& made) {
    auto saved = made.save();
    (void)made.restore(saved, saved.size());
  };
  CHECK(shows({.skipped_sync = append_kernel::rows_asked, .in = &typeid(append_kernel)}, append));
  CHECK(shows({.skipped_warp_sync = append_kernel::row_read, .in = &typeid(append_kernel)}, append));
  CHECK(shows({.skipped_sync = fork_kernel::flags_copied, .in = &typeid(fork_kernel)}, fork));
  CHECK(shows({.skipped_sync = restore_kernel::records_asked, .in = &typeid(restore_kernel)}, restore));
}
