// SPDX-License-Identifier: Apache-2.0
// The engine of examples/paged_engine, given memory for a device: no kernel of the library or of the engine gets an
// address of any other memory of this process. On a device such an address is a fault; blocks on the CPU just read it.
#include <doctest/doctest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <memory_resource>
#include <set>
#include <string>
#include <typeinfo>
#include <vector>

#include "emulation/emulated_backend.hpp"
#include "paged_engine/attention_kernels.hpp"
#include "paged_engine/engine.hpp"
#include "support/random.hpp"

namespace {

struct address_range {
  std::uintptr_t first = 0, last = 0;
  [[nodiscard]] bool holds(std::uintptr_t address) const { return address >= first && address < last; }
};

/// What this process can write: heap, stacks, static objects. Not what a sanitizer keeps about them: its ranges lie where
/// one or two small numbers are an address.
std::vector<address_range> writable_memory() {
  std::vector<address_range> found;
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) {
    unsigned long long first = 0, last = 0;
    char rights[5] = "";
    if (std::sscanf(line.c_str(), "%llx-%llx %4s", &first, &last, rights) == 3 && rights[1] == 'w' &&
        first >= 1ull << 32 && last - first < 1ull << 40)
      found.push_back({static_cast<std::uintptr_t>(first), static_cast<std::uintptr_t>(last)});
  }
  return found;
}

/// All that a device would reach.
class device_memory {
 public:
  [[nodiscard]] std::pmr::memory_resource* resource() { return &pool_; }
  [[nodiscard]] address_range range() const {
    auto const first = reinterpret_cast<std::uintptr_t>(bytes_.data());
    return {first, first + bytes_.size()};
  }

 private:
  std::vector<std::byte> bytes_ = std::vector<std::byte>(std::size_t{8} << 20);
  std::pmr::monotonic_buffer_resource arena_{bytes_.data(), bytes_.size(), std::pmr::null_memory_resource()};
  std::pmr::unsynchronized_pool_resource pool_{&arena_};
};

/// Emulated blocks, whose bodies are looked through for addresses before they run.
struct watched_execution {
  address_range reachable;
  std::set<std::string>* launched;
  std::set<std::string>* strayed;  ///< bodies that held an address of other memory
};

#if __has_builtin(__builtin_clear_padding)
constexpr bool sees_addresses = true;
void clear_padding(auto& body) { __builtin_clear_padding(&body); }
#else
constexpr bool sees_addresses = false;  // whatever stands in padding may look like one
void clear_padding(auto&) {}
#endif

template <class Body>
bool strays(Body body, address_range reachable) {
  clear_padding(body);
  std::vector<address_range> const mine = writable_memory();
  for (std::size_t at = 0; at + sizeof(std::uintptr_t) <= sizeof body; at += alignof(void*)) {
    std::uintptr_t word = 0;
    std::memcpy(&word, reinterpret_cast<std::byte const*>(&body) + at, sizeof word);
    if (!reachable.holds(word) && std::ranges::any_of(mine, [&](address_range one) { return one.holds(word); }))
      return true;
  }
  return false;
}

}  // namespace

template <>
struct foresightkv::detail::kernels::launcher<watched_execution> {
  template <class Body>
  static status run(watched_execution const& exec, int blocks, Body const& body) {
    if (blocks > 0) exec.launched->insert(typeid(Body).name());
    if (blocks > 0 && strays(body, exec.reachable)) exec.strayed->insert(typeid(Body).name());
    return launcher<testing::emulated_execution>::run({}, blocks, body);
  }
  static bool clusters(watched_execution const&) { return true; }
};
template <>
struct foresightkv::detail::backend<watched_execution>
    : foresightkv::detail::kernels::kernel_backend<watched_execution> {};

namespace {

using namespace paged_engine;

constexpr fkv::eviction_config config{.budget = 24, .interval = 8, .sink_tokens = 4};
using policy = fkv::policy<fkv::eviction_config, fkv::window_sum, fkv::top_k, fkv::fill_holes>;

struct watched_run {
  std::set<std::string> launched, strayed;
  engine_counters counted;
  std::size_t problems = 0;
};

/// Prompts that begin alike, drafts, a pool that cannot hold them all.
watched_run serve(device_memory const& reachable, std::pmr::memory_resource* memory) {
  watched_run result;
  watched_execution const exec{reachable.range(), &result.launched, &result.strayed};
  model const decoder({}, 3);
  memory_shape const extents{.slots = 4, .num_pages = 22, .page_size = 4, .max_tokens = 32, .window = 8};
  engine running(decoder, extents, {.chunk = 8, .drafts = 3}, evicting(exec, policy{config, {}, {}, {}, {}}),
                 kernel_attention(exec), memory);
  testing::random_source random(4);
  for (int i = 0; i < 8; ++i) {
    std::vector<int> prompt(12, 7);
    for (int t = 0; t < 4 + i; ++t) prompt.push_back(random.integer(0, decoder.shape().vocabulary - 1));
    running.submit({prompt, 10 + i % 3 * 12, i % 2});
    running.step();
  }
  running.run_all();
  result.counted = running.counters();
  for (answer const& one : running.answers()) result.problems += one.problem.empty() ? 0u : 1u;
  return result;
}

}  // namespace

TEST_CASE("paged engine: kernels get addresses of the memory that the engine was given, and of no other" *
          doctest::skip(!sees_addresses)) {
  device_memory memory;
  watched_run const run = serve(memory, memory.resource());
  CHECK(run.problems == 0);
  CHECK(run.counted.cuts > 0);
  CHECK(run.counted.cuts_into_fresh_pages > 0);
  CHECK(run.counted.preemptions > 0);  // save and restore
  CHECK(run.counted.drafts_rejected > 0);
  CHECK(run.launched.size() > 8);
  CHECK(run.strayed == std::set<std::string>());
}

TEST_CASE("paged engine: an engine on the host's heap is noticed") {
  device_memory const memory;
  watched_run const run = serve(memory, std::pmr::new_delete_resource());
  CHECK(run.strayed == run.launched);
}
