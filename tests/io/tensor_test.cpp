// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include <foresightkv/io/tensor.hpp>

#include "io/temporary_folder.hpp"

namespace fkv = foresightkv;
namespace io = foresightkv::io;

namespace {

template <class Element>
io::tensor view(std::vector<Element> const& values, std::vector<std::int64_t> shape) {
  return {"f: tensor 'x'", *io::find_dtype<Element>(), std::move(shape), std::as_bytes(std::span(values))};
}

template <class Action>
std::string said(Action&& action) {
  return test::message_of<io::error>(action);
}

/// All bit patterns of a narrow type: finite by its bits exactly where its widened value is.
template <class Element, class Bits>
void check_every(Bits last) {
  for (std::uint32_t bits = 0; bits <= last; ++bits) {
    std::vector<Element> const one{std::bit_cast<Element>(static_cast<Bits>(bits))};
    auto const tensor = view(one, {1});
    bool const passed = said([&] { tensor.expect_finite(); }) == "nothing was thrown";
    if (passed != std::isfinite(tensor.to_float()[0])) FAIL_CHECK(bits);
  }
}

}  // namespace

TEST_CASE("dtype: names, sizes and C++ types belong together") {
  std::set<std::string_view> names;
  for (int i = 0; i < io::dtype_count; ++i) {
    auto const type = static_cast<io::dtype>(i);
    CHECK(names.insert(io::name(type)).second);
    CHECK(io::is_float(type) == (io::name(type).find('F') != std::string_view::npos));
    io::visit_dtype(type, [&]<class Element>(std::type_identity<Element>) {
      CHECK(io::element_size(type) == sizeof(Element));
      if (type != io::dtype::boolean) CHECK(io::find_dtype<Element>() == type);
    });
  }
  CHECK(io::name(io::dtype::boolean) == "BOOL");
  static_assert(!io::tensor_element<bool>);
  static_assert(!io::tensor_element<float const>);
}

TEST_CASE("tensor: to_float widens every type") {
  CHECK(view(std::vector{1.5, -2e300}, {2}).to_float()[0] == 1.5f);
  CHECK(view(std::vector<fkv::half>{{0x3E00}, {0xC000}}, {2}).to_float() == std::vector{1.5f, -2.0f});
  CHECK(view(std::vector<fkv::bfloat16>{{0x3FC0}, {0xC000}}, {2}).to_float() == std::vector{1.5f, -2.0f});
  CHECK(view(std::vector<fkv::float8_e4m3>{{0x3C}, {0xC0}}, {2}).to_float() == std::vector{1.5f, -2.0f});
  CHECK(view(std::vector<fkv::float8_e5m2>{{0x3E}, {0xC0}}, {2}).to_float() == std::vector{1.5f, -2.0f});
  CHECK(view(std::vector<std::int64_t>{-3, 1LL << 40}, {2}).to_float() == std::vector{-3.0f, 0x1p40f});
  CHECK(view(std::vector<std::int8_t>{-128}, {1}).to_float() == std::vector{-128.0f});
  CHECK(view(std::vector<std::uint64_t>{~0ULL}, {}).to_float() == std::vector{0x1p64f});
}

TEST_CASE("tensor: in place only in the right type and alignment, copies anyway") {
  std::vector<float> const values{1, 2, 3};
  auto const tensor = view(values, {3});
  CHECK(tensor.as<float>().data() == values.data());
  CHECK(tensor.copy<float>() == values);
  CHECK(said([&] { static_cast<void>(tensor.as<std::int32_t>()); }) == "f: tensor 'x' must be I32, is F32");
  CHECK(said([&] { static_cast<void>(tensor.copy<double>()); }) == "f: tensor 'x' must be F64, is F32");

  alignas(8) std::array<std::byte, 13> shifted{};
  std::memcpy(shifted.data() + 1, values.data(), 12);
  io::tensor const unaligned{"f: tensor 'x'", io::dtype::f32, {3}, std::span(shifted).subspan(1)};
  CHECK(said([&] { static_cast<void>(unaligned.as<float>()); }) == "f: tensor 'x' is not aligned to 4 bytes");
  CHECK(unaligned.copy<float>() == values);
  CHECK(unaligned.to_float() == values);
  CHECK(said([&] { unaligned.expect_finite(); }) == "nothing was thrown");

  std::vector<std::uint8_t> const flags{0, 1, 7};
  io::tensor const booleans{"f: tensor 'x'", io::dtype::boolean, {3}, std::as_bytes(std::span(flags))};
  CHECK(booleans.copy<std::uint8_t>() == flags);
  CHECK(booleans.as<std::uint8_t>()[2] == 7);
}

TEST_CASE("tensor: expect_shape says what is wanted and what is there") {
  std::vector<float> const values(6);
  auto const tensor = view(values, {2, 3});
  CHECK(&tensor.expect_shape({2, 3}) == &tensor);
  CHECK(&tensor.expect_shape({io::tensor::any, 3}) == &tensor);
  CHECK(said([&] { tensor.expect_shape({3, 2}); }) == "f: tensor 'x' must be [3, 2], is [2, 3]");
  CHECK(said([&] { tensor.expect_shape({io::tensor::any, 4}); }) == "f: tensor 'x' must be [*, 4], is [2, 3]");
  CHECK(said([&] { tensor.expect_shape({2, 3, 1}); }) == "f: tensor 'x' must be [2, 3, 1], is [2, 3]");
  CHECK(said([&] { tensor.expect_shape({}); }) == "f: tensor 'x' must be [], is [2, 3]");
}

TEST_CASE("tensor: expect_finite finds each NaN and infinity of each format") {
  check_every<fkv::half, std::uint16_t>(0xFFFF);
  check_every<fkv::bfloat16, std::uint16_t>(0xFFFF);
  check_every<fkv::float8_e4m3, std::uint8_t>(0xFF);
  check_every<fkv::float8_e5m2, std::uint8_t>(0xFF);
  constexpr double largest = std::numeric_limits<float>::max();
  constexpr double first_over = 0x1.ffffffp127;  // half a unit over FLT_MAX: a tie, rounds to infinity
  for (double const value :
       {largest, std::nextafter(first_over, 0.0), first_over, 1e300, double{INFINITY}, std::nan(""), 0.0, 5e-324}) {
    for (double const sign : {1.0, -1.0}) {
      std::vector<double> const one{value * sign};
      bool const passed = said([&] { view(one, {1}).expect_finite(); }) == "nothing was thrown";
      CHECK(passed == std::isfinite(static_cast<float>(one[0])));
    }
  }
}

TEST_CASE("tensor: expect_finite names the place") {
  std::vector<float> values(24);
  auto const tensor = view(values, {2, 3, 4});
  CHECK(said([&] { tensor.expect_finite(); }) == "nothing was thrown");
  values[23] = -INFINITY;
  CHECK(said([&] { tensor.expect_finite(); }) == "f: tensor 'x' holds infinity at [1, 2, 3]");
  values[17] = NAN;
  CHECK(said([&] { tensor.expect_finite(); }) == "f: tensor 'x' holds NaN at [1, 1, 1]");
  values[0] = -NAN;
  CHECK(said([&] { tensor.expect_finite(); }) == "f: tensor 'x' holds NaN at [0, 0, 0]");
  std::vector<float> const one{NAN};
  CHECK(said([&] { view(one, {}).expect_finite(); }) == "f: tensor 'x' holds NaN at []");
  std::vector<std::int32_t> const numbers{1};
  CHECK(said([&] { view(numbers, {1}).expect_finite(); }) == "f: tensor 'x' must have a floating-point type, has I32");
}
