// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <foresightkv/caches/dense.hpp>

namespace fkv = foresightkv;

namespace {

struct shared_scale {
  using element_type = fkv::half;
  static constexpr int token_bytes = 0;

  float factor = 0.5f;

  struct row {
    float factor = 1.0f;
    [[nodiscard]] FORESIGHTKV_HOST_DEVICE float scale(int) const { return factor; }
  };
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE row of_row(fkv::cache_shape const&, fkv::row_index) const { return {factor}; }
  [[nodiscard]] static fkv::status check() { return {}; }
};

struct unchecked : shared_scale {
  static void check() {}
};
struct of_strings : shared_scale {
  using element_type = char;
};

}  // namespace

TEST_CASE("storage: what is one, and what is none") {
  static_assert(fkv::element_storage<fkv::plain<float>>);
  static_assert(fkv::element_storage<fkv::scaled_by_head<fkv::float8_e4m3>>);
  static_assert(fkv::element_storage<fkv::scaled_by_token<fkv::float8_e5m2>>);
  static_assert(fkv::element_storage<fkv::within_keys<fkv::bfloat16>>);
  static_assert(!fkv::element_storage<float>);
  static_assert(!fkv::element_storage<unchecked>);
  static_assert(!fkv::element_storage<of_strings>);
}

TEST_CASE("storage: a user's own reaches the vectors of a row") {
  static_assert(fkv::element_storage<shared_scale>);
  using cache_type = fkv::dense_cache<shared_scale, float>;
  static_assert(fkv::kv_cache<cache_type>);
  cache_type cache;
  cache.stored_keys.factor = 3.0f;
  CHECK(cache.keys({0, 0, 0}).scale(7) == 3.0f);
  CHECK(cache.values({0, 0, 0}).scale(7) == 1.0f);
  CHECK(cache.num_parts() == 2);
}
