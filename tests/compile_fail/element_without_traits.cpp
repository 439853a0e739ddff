// SPDX-License-Identifier: Apache-2.0
// expect-error: float8_e4m3, or your own: specialise element_traits for it), or storages of them
#include <foresightkv/foresightkv.hpp>

namespace fkv = foresightkv;

namespace engine {

struct bf16 {
  std::uint16_t bits;
};

}  // namespace engine

// As docs/how_to.md has it.
template <>
struct fkv::element_traits<engine::bf16> {
  using layout = fkv::bfloat16;
  FORESIGHTKV_HOST_DEVICE static float load(engine::bf16 value) { return fkv::to_float(fkv::bfloat16{value.bits}); }
  FORESIGHTKV_HOST_DEVICE static engine::bf16 store(float value) {
    return {fkv::element_traits<fkv::bfloat16>::store(value).bits};
  }
};

#ifdef SHOULD_FAIL
using element = std::uint16_t;
#else
using element = engine::bf16;
#endif

fkv::dense_cache<element> cache;
