// SPDX-License-Identifier: Apache-2.0
// An evictor's memory is a stream's: it gives what the host's evictor gives.
#include <doctest/doctest.h>

#include <foresightkv/evictor.cuh>
#include <vector>

#include "support/cuda_device.cuh"
#include "support/harness.hpp"
#include "support/random.hpp"

namespace fkv = foresightkv;

TEST_CASE("evictor: on a stream as on the host") {
  constexpr fkv::eviction_config config{.budget = 48, .interval = 16, .sink_tokens = 2};
  auto const policy = fkv::compose<config>(fkv::key_norm{}, fkv::top_k{}, fkv::ordered{});
  fkv::cache_shape const shape{.num_layers = 2,
                               .num_sequences = 3,
                               .num_kv_heads = 2,
                               .group = 1,
                               .key_head_dim = 16,
                               .value_head_dim = 16,
                               .capacity = 96};
  testing::owned_cache<float> on_host(shape, 0), on_device(shape, 0);
  testing::random_source random(21);
  int const lengths[3] = {64, 40, 96};
  for (int layer = 0; layer < 2; ++layer)
    for (int sequence = 0; sequence < 3; ++sequence)
      for (int head = 0; head < 2; ++head)
        for (int slot = 0; slot < 96; ++slot)
          for (int d = 0; d < 16; ++d) {
            fkv::row_index const at{layer, sequence, head};
            on_host.view().key(at, slot)[d] = on_device.view().key(at, slot)[d] = random.normal();
            on_host.view().value(at, slot)[d] = on_device.view().value(at, slot)[d] = random.normal();
          }
  for (int sequence = 0; sequence < 3; ++sequence) {
    on_host.length({0, sequence, 0}) = lengths[sequence];
    on_device.length({0, sequence, 0}) = lengths[sequence];
  }
  cudaStream_t stream = nullptr;
  REQUIRE(cudaStreamCreate(&stream) == cudaSuccess);
  {
    fkv::evictor host{fkv::host, policy, shape, 0};
    fkv::evictor device{fkv::on(stream, testing::device_traits()), policy, shape, 0};
    REQUIRE(cudaDeviceSynchronize() == cudaSuccess);
    REQUIRE(host.evict(on_host.view(), fkv::observation<float>{}).ok());
    REQUIRE(device.evict(on_device.view(), fkv::observation<float>{}).ok());
    std::vector<std::int32_t> new_lengths(3);
    REQUIRE(cudaMemcpyAsync(new_lengths.data(), device.new_lengths(), 12, cudaMemcpyDeviceToHost, stream) ==
            cudaSuccess);
    REQUIRE(cudaStreamSynchronize(stream) == cudaSuccess);
    CHECK(new_lengths == std::vector<std::int32_t>{48, 40, 48});
    CHECK(std::equal(new_lengths.begin(), new_lengths.end(), host.new_lengths()));
    for (int row = 0; row < shape.num_rows(); ++row) {
      fkv::row_index const at{row / 6, row / 2 % 3, row % 2};
      for (int slot = 0; slot < host.new_lengths()[at.sequence]; ++slot)
        CHECK(testing::same_token(on_host.view(), at, slot, on_device.view(), slot));
    }
  }
  REQUIRE(cudaStreamDestroy(stream) == cudaSuccess);
}

TEST_CASE("evictor: into another cache on a stream as on the host, as int8 and as bytes") {
  constexpr fkv::eviction_config config{.budget = 48, .interval = 16, .sink_tokens = 2};
  auto const policy = fkv::compose<config>(fkv::streaming_llm{}, fkv::top_k{}, fkv::ordered{});
  fkv::cache_shape const shape{.num_layers = 2,
                               .num_sequences = 3,
                               .num_kv_heads = 2,
                               .group = 1,
                               .key_head_dim = 48,
                               .value_head_dim = 64,
                               .capacity = 200};
  using target_type = fkv::dense_cache<fkv::scaled_by_token<std::int8_t>, fkv::bfloat16>;
  testing::owned_cache<fkv::bfloat16> source(shape, 200);
  testing::random_source random(22);
  source.fill(random);
  auto const before = source;
  auto const tokens = static_cast<std::size_t>(shape.num_rows() * shape.capacity);
  struct {
    testing::guarded<std::int8_t> keys;
    testing::guarded<fkv::bfloat16> values;
    testing::guarded<float> scales;
  } on_host{testing::guarded<std::int8_t>(tokens * 48), testing::guarded<fkv::bfloat16>(tokens * 64),
            testing::guarded<float>(tokens)},
      on_device{on_host};
  testing::guarded<std::int32_t> const rooms(3, 60);
  auto const view = [&](auto& memory) {
    return target_type::nhd(memory.keys.data(), memory.values.data(), rooms.data(), shape)
        .with_key_scales(memory.scales.data());
  };
  cudaStream_t stream = nullptr;
  REQUIRE(cudaStreamCreate(&stream) == cudaSuccess);
  {
    fkv::evictor host{fkv::host, policy, shape, 0};
    fkv::evictor device{fkv::on(stream, testing::device_traits()), policy, shape, 0};
    REQUIRE(cudaDeviceSynchronize() == cudaSuccess);
    REQUIRE(host.evict_into(view(on_host), source.view(), fkv::observation<float>{}).ok());
    REQUIRE(device.evict_into(view(on_device), source.view(), fkv::observation<float>{}).ok());
    std::vector<std::int32_t> new_lengths(3);
    REQUIRE(cudaMemcpyAsync(new_lengths.data(), device.new_lengths(), 12, cudaMemcpyDeviceToHost, stream) ==
            cudaSuccess);
    REQUIRE(cudaStreamSynchronize(stream) == cudaSuccess);
    CHECK(new_lengths == std::vector<std::int32_t>{48, 48, 48});
    CHECK(on_device.keys.same_bytes(on_host.keys));
    CHECK(on_device.values.same_bytes(on_host.values));
    CHECK(on_device.scales.same_bytes(on_host.scales));
    CHECK(source.same_tokens(before));
  }
  REQUIRE(cudaStreamDestroy(stream) == cudaSuccess);
}
