// SPDX-License-Identifier: Apache-2.0
// What calls verbs or launches kernels: nvcc compiles this file where the program is to have a device.
#include "paged_engine/policies.hpp"

#include <stdexcept>

#include "paged_engine/attention_kernels.hpp"

namespace paged_engine {
namespace {

/// make(exec): on the host, or on the thread's stream of the current device.
template <class Make>
auto on(processor where, Make const& make) {
#if defined(__CUDACC__)
  if (where == processor::cuda) return make(fkv::on(cudaStreamPerThread, fkv::device_traits::query()));
#endif
  if (where != processor::host) throw std::invalid_argument("this program was built without CUDA");
  return make(fkv::host);
}

}  // namespace

eviction_maker eviction_by(std::string_view policy, fkv::eviction_config const& config, processor where) {
  auto const of = [&](auto const& scorer) {
    return on(where, [&](auto const& exec) {
      return evicting(exec, fkv::compose(config, scorer, fkv::top_k{}, fkv::fill_holes{}));
    });
  };
  if (policy == "full") return evicting_nothing();
  if (policy == "window_sum") return of(fkv::window_sum{});
  if (policy == "tova") return of(fkv::tova{});
  if (policy == "key_diff") return of(fkv::key_diff{});
  if (policy == "streaming_llm") return of(fkv::streaming_llm{});
  throw std::invalid_argument("policies: window_sum (default), tova, key_diff, streaming_llm");
}

attention attention_on(processor where) {
  if (where == processor::host) return host_attention;
#if defined(__CUDACC__)
  return kernel_attention(fkv::on(cudaStreamPerThread, fkv::device_traits::query()));
#else
  throw std::invalid_argument("this program was built without CUDA");
#endif
}

}  // namespace paged_engine
