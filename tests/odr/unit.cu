// SPDX-License-Identifier: Apache-2.0
// One of two translation units of a library that have a kernel of the same body. UNIT_KERNEL names its function.
#include "engine.hpp"

#include <foresightkv/detail/cuda/launch.cuh>

namespace fkv = foresightkv;

struct clear_body {
  static constexpr int threads = 32;
  float* data = nullptr;

  template <class Context>
  struct shared {};
  template <class Context>
  FORESIGHTKV_HOST_DEVICE void operator()(Context const& c, shared<Context>&) const {
    data[c.rank()] = 0.0f;
  }
};

void const* UNIT_KERNEL() {
  using units = fkv::detail::cuda::architectures<__CUDA_ARCH_LIST__>;
  return reinterpret_cast<void const*>(fkv::detail::cuda::kernel_of<clear_body, units>());
}
