// SPDX-License-Identifier: Apache-2.0
// What only a device can show: captured calls, streams, preparation.
#include <doctest/doctest.h>

#include <array>
#include <vector>

#include "support/execution.hpp"
#include "support/policy_bench.hpp"

namespace {

namespace fkv = foresightkv;
using testing::history;

using scorer = fkv::weighted_sum<fkv::standardised<fkv::accumulated_sum>, fkv::standardised<fkv::tova>>;
template <class Compaction>
using policy_of = fkv::policy<fkv::eviction_config, scorer, fkv::sampled_top_k, Compaction>;
template <class Compaction>
using bench_of = testing::policy_bench<policy_of<Compaction>>;

constexpr fkv::eviction_config cut{.budget = 96, .interval = 32, .recent_tokens = 16, .sink_tokens = 2};

template <class Compaction>
bench_of<Compaction> make_bench(std::uint64_t seed) {
  fkv::cache_shape const shape{.num_layers = 2,
                               .num_sequences = 3,
                               .num_kv_heads = 2,
                               .group = 4,
                               .key_head_dim = 64,
                               .value_head_dim = 64,
                               .capacity = 160};
  return {seed, policy_of<Compaction>{cut, {0.7f, {}, 0.3f, {}}, {}, {}, {}}, shape, 32};
}

/// An eviction of a bench on a stream, not waited for.
template <class Bench>
struct call {
  Bench& made;
  std::vector<std::int32_t> slots, count;
  testing::owned_workspace work;

  explicit call(Bench& bench) : made(bench), slots{0, 1, 2}, count{3}, work(bytes()) {}

  [[nodiscard]] fkv::sequence_list list() const { return {slots.data(), count.data(), 3, made.shape.capacity}; }
  [[nodiscard]] std::size_t bytes() const {
    return fkv::evict_bytes(testing::exec, typename Bench::policy_type{}, made.shape,
                            {nullptr, nullptr, 3, made.shape.capacity}, made.window.max_queries);
  }
  template <class Exec>
  fkv::status operator()(Exec const& exec) {
    return fkv::evict(exec, fkv::batch{made.policy, made.cache.view(), list(), made.state.view, work.view()},
                      made.window.view(), {made.new_lengths.data(), made.lists.view()});
  }
};

fkv::cuda_execution on_stream(cudaStream_t stream) { return fkv::on(stream, testing::device_traits()); }

template <class Bench>
bool same(Bench& a, Bench& b) {
  return a.cache.same_tokens(b.cache) && testing::same_state(a.state.view, b.state.view) &&
         a.new_lengths.same_bytes(b.new_lengths) && a.lists.same(b.lists);
}

int kernel_nodes(cudaGraph_t graph) {
  std::size_t count = 0;
  REQUIRE(cudaGraphGetNodes(graph, nullptr, &count) == cudaSuccess);
  std::vector<cudaGraphNode_t> nodes(count);
  REQUIRE(cudaGraphGetNodes(graph, nodes.data(), &count) == cudaSuccess);
  int kernels = 0;
  for (cudaGraphNode_t const node : nodes) {
    cudaGraphNodeType type{};
    REQUIRE(cudaGraphNodeGetType(node, &type) == cudaSuccess);
    CHECK(type == cudaGraphNodeTypeKernel);
    ++kernels;
  }
  return kernels;
}

}  // namespace

TEST_CASE_TEMPLATE("cuda: a captured eviction replays with other lengths and another list", Compaction, fkv::ordered,
                   fkv::fill_holes, fkv::slot_list) {
  auto made = make_bench<Compaction>(3);
  made.place(history::ordered);
  call<bench_of<Compaction>> captured(made);
  cudaStream_t const stream = testing::cuda_stream();
  REQUIRE(captured(fkv::prepare(testing::device_traits())).ok());
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t replay = nullptr;
  REQUIRE(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal) == cudaSuccess);
  REQUIRE(captured(on_stream(stream)).ok());
  REQUIRE(cudaStreamEndCapture(stream, &graph) == cudaSuccess);
  CHECK(kernel_nodes(graph) <= 4);
  REQUIRE(cudaGraphInstantiate(&replay, graph, 0) == cudaSuccess);
  for (int round = 0; round < 4; ++round) {
    for (int sequence = 0; sequence < 3; ++sequence)
      made.place(sequence, history::ordered, made.random.integer(round == 2 ? 0 : 90, made.shape.capacity));
    captured.slots = {round % 3, 2, (round + 1) % 3};
    captured.count[0] = round == 3 ? 1 : 3;
    auto twin = made;
    call<bench_of<Compaction>> direct(twin);
    direct.slots = captured.slots;
    direct.count = captured.count;
    // The replay reads where the captured list stood.
    REQUIRE(cudaGraphLaunch(replay, stream) == cudaSuccess);
    REQUIRE(cudaStreamSynchronize(stream) == cudaSuccess);
    REQUIRE(direct(testing::exec).ok());
    CHECK(same(made, twin));
    CHECK(captured.work.memory.intact());
  }
  CHECK(cudaGraphExecDestroy(replay) == cudaSuccess);
  CHECK(cudaGraphDestroy(graph) == cudaSuccess);
}

TEST_CASE("cuda: calls on several streams at once") {
  using bench = bench_of<fkv::ordered>;
  constexpr int num_streams = 4;
  std::vector<bench> made, twins;
  for (std::uint64_t i = 0; i < num_streams; ++i) {
    made.push_back(make_bench<fkv::ordered>(20 + i));
    made.back().place(history::ordered);
    twins.push_back(made.back());
  }
  std::vector<cudaStream_t> streams(num_streams);
  std::vector<call<bench>> calls;
  for (auto& each : made) calls.emplace_back(each);
  for (auto& stream : streams) REQUIRE(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking) == cudaSuccess);
  for (std::size_t i = 0; i < num_streams; ++i) CHECK(calls[i](on_stream(streams[i])).ok());
  for (std::size_t i = 0; i < num_streams; ++i) {
    REQUIRE(cudaStreamSynchronize(streams[i]) == cudaSuccess);
    REQUIRE(call<bench>(twins[i])(testing::exec).ok());
    CHECK(same(made[i], twins[i]));
    CHECK(cudaStreamDestroy(streams[i]) == cudaSuccess);
  }
}

TEST_CASE("cuda: preparing a call runs nothing") {
  auto made = make_bench<fkv::fill_holes>(9);
  made.place(history::ordered);
  auto before = made;
  CHECK(call<bench_of<fkv::fill_holes>>(made)(fkv::prepare(testing::device_traits())).ok());
  REQUIRE(cudaDeviceSynchronize() == cudaSuccess);
  CHECK(same(made, before));
}

TEST_CASE("cuda: traits of a failed query are answered with its error") {
  auto made = make_bench<fkv::fill_holes>(10);
  made.place(history::ordered);
  fkv::device_traits broken = testing::device_traits();
  broken.native = cudaErrorInsufficientDriver;
  fkv::status const done = call<bench_of<fkv::fill_holes>>(made)(fkv::on(testing::cuda_stream(), broken));
  CHECK(done == fkv::status{fkv::errc::cuda, cudaErrorInsufficientDriver});
}
