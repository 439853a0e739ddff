// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <set>
#include <string>
#include <type_traits>

#include <foresightkv/status.hpp>

namespace fkv = foresightkv;

namespace {

constexpr fkv::errc all_codes[] = {
    fkv::errc::ok,         fkv::errc::invalid_config, fkv::errc::invalid_shape,       fkv::errc::null_pointer,
    fkv::errc::misaligned, fkv::errc::overlap,        fkv::errc::workspace_too_small, fkv::errc::unsupported,
    fkv::errc::cuda};

}  // namespace

TEST_CASE("status: only errc::ok is ok, and a fresh status is") {
  static_assert(fkv::status{}.ok());
  for (auto code : all_codes) CHECK(fkv::status{code}.ok() == (code == fkv::errc::ok));
}

TEST_CASE("status: every code has a text of its own") {
  std::set<std::string> texts;
  for (auto code : all_codes) {
    auto const* text = fkv::status{code}.message();
    REQUIRE(text != nullptr);
    CHECK(std::string{text} != "");
    CHECK(std::string{text} != "unknown error");
    CHECK_MESSAGE(texts.insert(text).second, text);
  }
}

TEST_CASE("status: a number that is no code has a text too") {
  CHECK(std::string{fkv::status{static_cast<fkv::errc>(-1)}.message()} == "unknown error");
  CHECK(std::string{fkv::status{static_cast<fkv::errc>(1000)}.message()} == "unknown error");
}

TEST_CASE("status: the text does not depend on the native number") {
  CHECK(std::string{fkv::status{fkv::errc::cuda, 1}.message()} == fkv::status{fkv::errc::cuda, 700}.message());
}

TEST_CASE("status: equality looks at the code and at the native number") {
  CHECK(fkv::status{fkv::errc::cuda, 1} == fkv::status{fkv::errc::cuda, 1});
  CHECK_FALSE(fkv::status{fkv::errc::cuda, 1} == fkv::status{fkv::errc::cuda, 2});
  CHECK_FALSE(fkv::status{fkv::errc::overlap} == fkv::status{fkv::errc::misaligned});
}

TEST_CASE("status: says which argument, and equality does not ask") {
  constexpr fkv::status inner{fkv::errc::null_pointer, 0, fkv::argument::queries};
  static_assert(inner.at(fkv::argument::window).where == fkv::argument::queries);  // who looked closer knows better
  static_assert(fkv::status{fkv::errc::null_pointer}.at(fkv::argument::window).where == fkv::argument::window);
  static_assert(fkv::status{}.at(fkv::argument::window).where == fkv::argument::none);
  static_assert(fkv::status{fkv::errc::cuda, 7}.at(fkv::argument::window).native == 7);
  static_assert(inner == fkv::status{fkv::errc::null_pointer});
}

TEST_CASE("status: every argument has a text of its own") {
  std::set<std::string> texts;
  for (int which = 0; which <= static_cast<int>(fkv::argument::output); ++which) {
    std::string const text = fkv::message(static_cast<fkv::argument>(which));
    CHECK(text != "unknown argument");
    CHECK_MESSAGE(texts.insert(text).second, text);
  }
  CHECK(std::string{fkv::message(static_cast<fkv::argument>(255))} == "unknown argument");
}

TEST_CASE("status: passes in registers and cannot throw") {
  static_assert(std::is_trivially_copyable_v<fkv::status>);
  static_assert(sizeof(fkv::status) <= 2 * sizeof(void*));
  CHECK(std::is_nothrow_copy_constructible_v<fkv::status>);
}
