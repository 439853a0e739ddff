// SPDX-License-Identifier: Apache-2.0
// An inference engine in a shared library. ENGINE_EVICT names its function, ENGINE_BUDGET its own budget.
#include "engine.hpp"

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <foresightkv/foresightkv.cuh>

namespace fkv = foresightkv;

namespace {

constexpr int length = 24, head_dim = 16, interval = 4;
constexpr fkv::cache_shape shape{
    .num_kv_heads = 2, .group = 2, .key_head_dim = head_dim, .value_head_dim = head_dim, .capacity = length};

/// Memory of the device and the host, or of the host alone where there is no device to read it.
class buffer {
 public:
  explicit buffer(std::size_t size) : size_(size) {
    if (cudaMallocManaged(&data_, size) == cudaSuccess) return;
    managed_ = false;
    data_ = std::calloc(size, 1);
  }
  buffer(buffer const&) = delete;
  buffer& operator=(buffer const&) = delete;
  ~buffer() {
    if (managed_)
      (void)cudaFree(data_);
    else
      std::free(data_);
  }
  template <class Element>
  [[nodiscard]] Element* as() const {
    return static_cast<Element*>(data_);
  }
  [[nodiscard]] fkv::workspace view() const { return {as<std::byte>(), size_}; }

 private:
  std::size_t size_;
  void* data_ = nullptr;
  bool managed_ = true;
};

/// Every verb that an eviction needs, until one fails.
template <class Policy>
engine_result evict_once(Policy const& policy) {
  fkv::device_traits const traits = fkv::device_traits::query();
  fkv::cuda_execution const exec = fkv::on(cudaStreamPerThread, traits);
  fkv::sequence_list const all{nullptr, nullptr, 1, length};
  std::size_t const floats = static_cast<std::size_t>(shape.num_rows() * length * head_dim);

  buffer const keys(floats * sizeof(float)), values(floats * sizeof(float)), queries(2 * floats * sizeof(float));
  for (std::size_t i = 0; i < floats; ++i)
    keys.as<float>()[i] = values.as<float>()[i] = static_cast<float>(i % 37) / 37;
  for (std::size_t i = 0; i < 2 * floats; ++i) queries.as<float>()[i] = static_cast<float>(i % 23) / 23;
  buffer const lengths(2 * sizeof(std::int32_t));
  std::int32_t* const new_length = lengths.as<std::int32_t>() + 1;
  lengths.as<std::int32_t>()[0] = length;
  *new_length = -1;
  buffer const columns(fkv::state_bytes(Policy{}, shape, length));
  buffer const scratch(fkv::evict_bytes(exec, Policy{}, shape, all, interval));

  auto const cache =
      fkv::dense_cache<float>::hnd(keys.as<float>(), values.as<float>(), lengths.as<std::int32_t>(), shape);
  auto const window = fkv::observation<float>::hnd(queries.as<float>(), shape, interval);
  auto const state = fkv::make_state(Policy{}, shape, length, columns.view());

  fkv::status done = fkv::reset(exec, state, all);
  if (done.ok())
    done =
        fkv::evict(fkv::prepare(traits), fkv::batch{policy, cache, all, state, scratch.view()}, window, {new_length});
  if (done.ok()) done = fkv::evict(exec, fkv::batch{policy, cache, all, state, scratch.view()}, window, {new_length});
  if (done.ok()) {
    cudaError_t const ran = cudaStreamSynchronize(exec.stream);
    if (ran != cudaSuccess) done = {fkv::errc::cuda, ran};
  }
  return {static_cast<int>(done.code), done.native, *new_length};
}

template <int Budget>
auto engine_policy() {
  static constexpr fkv::eviction_config config{.budget = Budget, .interval = interval, .sink_tokens = 1};
  return fkv::compose<config>(fkv::window_sum{}, fkv::top_k{}, fkv::fill_holes{});
}

}  // namespace

engine_result ENGINE_EVICT(bool shared_policy) {
  return shared_policy ? evict_once(engine_policy<10>()) : evict_once(engine_policy<ENGINE_BUDGET>());
}
