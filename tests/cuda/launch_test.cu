// SPDX-License-Identifier: Apache-2.0
// The block context of a device against plain loops, and what a launch promises: shared memory of any size, errors that
// are its own, capture.
#include <doctest/doctest.h>

#include <cstddef>
#include <cstdint>
#include <vector>

#include <foresightkv/detail/cuda/launch.cuh>

#include "emulation/fragments.hpp"
#include "support/cuda_device.cuh"
#include "support/random.hpp"

namespace fkv = foresightkv;
namespace kernels = fkv::detail::kernels;

namespace {

/// Everything that a context offers, once.
template <class Element>
struct tour {
  static constexpr int threads = 64;
  static constexpr int bins = 4;

  std::uint32_t const* words;      // [block][thread][4]
  std::uint32_t const* fragments;  // [thread][6], of a and b
  std::uint64_t* sums;             // [block][thread]
  std::uint64_t* totals;           // [block]
  std::uint32_t* histogram;        // [block][bins]
  float* shuffled;                 // [block][thread]
  float* products;                 // [block][thread][4]
  std::uint32_t* flags;

  template <class Context>
  struct shared {
    typename Context::template scan<std::uint64_t> scan;
    alignas(16) std::uint32_t stage[threads][4];
    std::uint32_t count[bins];
  };

  template <class Context>
  FORESIGHTKV_HOST_DEVICE void operator()(Context const& c, shared<Context>& memory) const {
    int const place = c.block() * threads + c.rank();
    std::uint32_t const* const from = words + place * 4;
    if (c.rank() % 2 == 0) {
      c.template copy_async<16>(memory.stage[c.rank()], from);
    } else {
      c.template copy_async<8>(memory.stage[c.rank()], from);
      c.template copy_async<4>(memory.stage[c.rank()] + 2, from + 2);
      c.template copy_async<4>(memory.stage[c.rank()] + 3, from + 3);
    }
    c.commit();
    if (c.rank() < bins) memory.count[c.rank()] = 0;
    c.template wait<0>();
    c.sync(0);
    std::uint32_t const word = memory.stage[(c.rank() + 1) % threads][c.rank() % 4];
    c.count(&memory.count[word % bins]);
    std::uint64_t all = 0;
    sums[place] = c.exclusive_sum(memory.scan, std::uint64_t{word}, all);
    c.sync(1);
    if (c.rank() == threads - 1) totals[c.block()] = all;
    if (c.rank() < bins) histogram[c.block() * bins + c.rank()] = memory.count[c.rank()];
    shuffled[place] = c.shuffle_xor(static_cast<float>(word % 1000), 21);
    std::uint32_t const* const mine = fragments + c.rank() * 6;
    std::uint32_t const a[4] = {mine[0], mine[1], mine[2], mine[3]};
    std::uint32_t const b[2] = {mine[4], mine[5]};
    float product[4] = {1.0f, 2.0f, 3.0f, 4.0f};
    c.template mma<Element>(product, a, b);
    for (int i = 0; i < 4; ++i) products[place * 4 + i] = product[i];
    if (c.rank() == 0) c.raise(flags, 1u << c.block());
  }
};

/// Fills Bytes of shared memory, and reads them from the other end.
template <int Bytes>
struct mirror {
  static constexpr int threads = 128;
  static constexpr int num_words = Bytes / 4;
  std::uint32_t* words;

  template <class Context>
  struct shared {
    std::uint32_t word[num_words];
  };
  template <class Context>
  FORESIGHTKV_HOST_DEVICE void operator()(Context const& c, shared<Context>& memory) const {
    for (int i = c.rank(); i < num_words; i += threads) memory.word[i] = words[i];
    c.sync(0);
    for (int i = c.rank(); i < num_words; i += threads) words[i] = memory.word[num_words - 1 - i];
  }
};

/// Every block adds up what its cluster has.
struct cluster_sum {
  static constexpr int threads = 64;
  static constexpr int cluster = 4;
  std::uint32_t* sums;  // [block][thread]

  template <class Context>
  struct shared {
    std::uint32_t word[threads];
  };
  template <class Context>
  FORESIGHTKV_HOST_DEVICE void operator()(Context const& c, shared<Context>& memory) const {
    memory.word[c.rank()] = word(c.block(), c.rank());
    c.sync_cluster(0);
    std::uint32_t sum = 0;
    for (int rank = 0; rank < cluster; ++rank)
      sum += static_cast<std::uint32_t>(rank + 1) * c.of_cluster(memory.word[(c.rank() + rank) % threads], rank);
    sums[c.block() * threads + c.rank()] = sum + 1000000u * static_cast<std::uint32_t>(c.cluster_rank());
    c.sync_cluster(1);
  }
  FORESIGHTKV_HOST_DEVICE static std::uint32_t word(int block, int rank) {
    return static_cast<std::uint32_t>(100 * block + rank);
  }
};

/// Whether code for these architectures runs clusters on a device of this capability.
template <int... Each>
constexpr bool clusters(int capability, int multiprocessors = 100) {
  fkv::device_traits traits;
  traits.compute_capability = capability;
  traits.num_multiprocessors = multiprocessors;
  return fkv::detail::cuda::has_clusters(static_cast<fkv::detail::cuda::architectures<Each...> const*>(nullptr),
                                         traits);
}
static_assert(clusters<900>(90) && clusters<800, 900>(90) && clusters<800, 900, 1000>(100) && clusters<1000>(103));
static_assert(!clusters<800>(80) && !clusters<800, 900>(80) && !clusters<800, 900>(89));
static_assert(!clusters<800>(90) && !clusters<800, 1000>(90) && !clusters<800, 900>(100) && !clusters<1030>(100));
static_assert(!clusters<900>(90, 7));

template <class Body>
fkv::status launch(Body const& body, int blocks = 1) {
  auto const exec = fkv::on(testing::cuda_stream(), testing::device_traits());
  return kernels::launcher<fkv::cuda_execution>::run(exec, blocks, body);
}
template <class Body>
fkv::status ready(Body const& body) {
  return kernels::launcher<fkv::cuda_preparation>::run(fkv::prepare(testing::device_traits()), 1, body);
}
bool wait() { return cudaStreamSynchronize(testing::cuda_stream()) == cudaSuccess; }

std::vector<std::uint32_t> ascending(int count) {
  std::vector<std::uint32_t> words;
  for (int i = 0; i < count; ++i) words.push_back(static_cast<std::uint32_t>(i));
  return words;
}

}  // namespace

TEST_CASE_TEMPLATE("the context of a device does what plain loops do", Element, fkv::half, fkv::bfloat16) {
  using body = tour<Element>;
  constexpr int blocks = 5, threads = body::threads;
  testing::random_source random(11);
  std::vector<std::uint32_t> words(blocks * threads * 4), fragments;
  for (auto& word : words) word = static_cast<std::uint32_t>(random.bits());
  auto const small = [&] {  // products are exact
    return std::uint32_t{fkv::element_traits<Element>::store(static_cast<float>(random.bits() % 9) - 4.0f).bits};
  };
  for (int i = 0; i < threads * 6; ++i) {
    std::uint32_t const low = small();
    fragments.push_back(small() << 16 | low);
  }
  std::vector<std::uint64_t> sums(blocks * threads), totals(blocks);
  std::vector<std::uint32_t> histogram(blocks * body::bins);
  std::vector<float> shuffled(blocks * threads), products(blocks * threads * 4);
  std::vector<std::uint32_t> flags(1, 1u << 31);

  body const all{words.data(),     fragments.data(), sums.data(),     totals.data(),
                 histogram.data(), shuffled.data(),  products.data(), flags.data()};
  REQUIRE(launch(all, blocks).ok());
  REQUIRE(wait());

  CHECK(flags[0] == (1u << 31 | ((1u << blocks) - 1)));
  for (int block = 0; block < blocks; ++block) {
    auto const word_of = [&](int i) {
      return words[static_cast<std::size_t>((block * threads + (i + 1) % threads) * 4 + i % 4)];
    };
    std::uint64_t sum = 0;
    std::uint32_t counts[body::bins] = {};
    for (int i = 0; i < threads; ++i) {
      auto const place = static_cast<std::size_t>(block * threads + i);
      CHECK(sums[place] == sum);
      CHECK(shuffled[place] == static_cast<float>(word_of(i ^ 21) % 1000));
      sum += word_of(i);
      ++counts[word_of(i) % body::bins];
    }
    CHECK(totals[static_cast<std::size_t>(block)] == sum);
    for (int bin = 0; bin < body::bins; ++bin)
      CHECK(histogram[static_cast<std::size_t>(block * body::bins + bin)] == counts[bin]);
    for (int warp = 0; warp < threads / 32; ++warp) {
      testing::matrix_product wanted{};
      for (int lane = 0; lane < 32; ++lane) {
        std::uint32_t const* const mine = fragments.data() + (warp * 32 + lane) * 6;
        for (int part = 0; part < 4; ++part) wanted.set_a<Element>(lane, part, mine[part]);
        for (int part = 0; part < 2; ++part) wanted.set_b<Element>(lane, part, mine[4 + part]);
        for (int part = 0; part < 4; ++part) wanted.sum(lane, part) = static_cast<float>(part + 1);
      }
      wanted.multiply();
      for (int lane = 0; lane < 32; ++lane)
        for (int part = 0; part < 4; ++part) {
          auto const place = static_cast<std::size_t>((block * threads + warp * 32 + lane) * 4 + part);
          CHECK(products[place] == wanted.sum(lane, part));
        }
    }
  }
}

TEST_CASE("blocks of a cluster read each other's shared memory") {
  auto const exec = fkv::on(testing::cuda_stream(), testing::device_traits());
  if (!kernels::launcher<fkv::cuda_execution>::clusters(exec)) {
    MESSAGE("skipped: no clusters on this device");
    return;
  }
  constexpr int threads = cluster_sum::threads, cluster = cluster_sum::cluster, blocks = 5 * cluster;
  std::vector<std::uint32_t> sums(blocks * threads), wanted;
  for (int block = 0; block < blocks; ++block)
    for (int thread = 0; thread < threads; ++thread) {
      std::uint32_t sum = 1000000u * static_cast<std::uint32_t>(block % cluster);
      for (int rank = 0; rank < cluster; ++rank)
        sum += static_cast<std::uint32_t>(rank + 1) *
               cluster_sum::word(block / cluster * cluster + rank, (thread + rank) % threads);
      wanted.push_back(sum);
    }
  REQUIRE(ready(cluster_sum{}).ok());
  REQUIRE(launch(cluster_sum{sums.data()}, blocks).ok());
  REQUIRE(wait());
  CHECK(sums == wanted);
}

TEST_CASE("a kernel has the shared memory of its body, above 48 KB too, prepared or not") {
  auto const mirrored = [](auto body, bool prepared = true) {
    using body_type = decltype(body);
    auto words = ascending(body_type::num_words);
    body.words = words.data();
    if (prepared) REQUIRE(ready(body).ok());
    REQUIRE(launch(body).ok());
    REQUIRE(wait());
    auto const last = static_cast<std::uint32_t>(words.size() - 1);
    for (std::uint32_t i = 0; i <= last; ++i)
      if (words[i] != last - i) return false;
    return true;
  };
  CHECK(mirrored(mirror<1024>{}));
  CHECK(mirrored(mirror<48 * 1024>{}));
  CHECK(mirrored(mirror<48 * 1024 + 4>{}));
  CHECK(mirrored(mirror<64 * 1024>{}));
  CHECK(mirrored(mirror<56 * 1024>{}, false));
}

TEST_CASE("what a device cannot hold, and a device that is not there, are told before a launch") {
  mirror<512 * 1024> const body{nullptr};
  CHECK(launch(body) == fkv::status{fkv::errc::unsupported});
  CHECK(ready(body) == fkv::status{fkv::errc::unsupported});

  fkv::device_traits const none{};
  mirror<1024> const small{nullptr};
  fkv::status const missing{fkv::errc::cuda, cudaErrorInvalidDevice};
  CHECK(kernels::launcher<fkv::cuda_execution>::run(fkv::on(testing::cuda_stream(), none), 1, small) == missing);
  CHECK(kernels::launcher<fkv::cuda_preparation>::run(fkv::prepare(none), 1, small) == missing);
  CHECK(cudaPeekAtLastError() == cudaSuccess);
}

TEST_CASE("a launch neither reports nor takes away an error of the engine") {
  auto words = ascending(256);
  REQUIRE(cudaSetDevice(-1) == cudaErrorInvalidDevice);
  CHECK(launch(mirror<1024>{words.data()}).ok());
  CHECK(wait());
  CHECK(words[0] == 255u);
  CHECK(cudaGetLastError() == cudaErrorInvalidDevice);

  // Its own it reports: the device has less shared memory than these traits say, and nothing is launched.
  fkv::device_traits boasting = testing::device_traits();
  boasting.shared_bytes_per_block = std::size_t{1} << 20;
  mirror<512 * 1024> const body{words.data()};
  fkv::status const refused =
      kernels::launcher<fkv::cuda_execution>::run(fkv::on(testing::cuda_stream(), boasting), 1, body);
  CHECK(refused.code == fkv::errc::cuda);
  CHECK(refused.native == cudaGetLastError());
}

TEST_CASE("no blocks, no launch; a captured launch is one node and runs at replay") {
  auto words = ascending(256);
  mirror<1024> const body{words.data()};
  REQUIRE(ready(body).ok());
  cudaGraph_t graph = nullptr;
  REQUIRE(cudaStreamBeginCapture(testing::cuda_stream(), cudaStreamCaptureModeGlobal) == cudaSuccess);
  CHECK(launch(body, 0).ok());
  CHECK(launch(body).ok());
  REQUIRE(cudaStreamEndCapture(testing::cuda_stream(), &graph) == cudaSuccess);
  std::size_t nodes = 0;
  CHECK(cudaGraphGetNodes(graph, nullptr, &nodes) == cudaSuccess);
  CHECK(nodes == 1u);
  CHECK(words[0] == 0u);

  cudaGraphExec_t runnable = nullptr;
  REQUIRE(cudaGraphInstantiate(&runnable, graph, 0) == cudaSuccess);
  for (std::uint32_t const first : {255u, 0u}) {
    CHECK(cudaGraphLaunch(runnable, testing::cuda_stream()) == cudaSuccess);
    CHECK(wait());
    CHECK(words[0] == first);
  }
  CHECK(cudaGraphExecDestroy(runnable) == cudaSuccess);
  CHECK(cudaGraphDestroy(graph) == cudaSuccess);
}
