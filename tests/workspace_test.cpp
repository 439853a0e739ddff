// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <random>
#include <vector>

#include <foresightkv/workspace.hpp>

namespace fkv = foresightkv;
using fkv::detail::arena;

namespace {

struct piece {
  std::byte* data;
  std::size_t size;
};

template <class Element>
piece take(arena& scratch, std::size_t count) {
  return {reinterpret_cast<std::byte*>(scratch.take<Element>(count)), count * sizeof(Element)};
}

// One verb's list of arrays, as both the verb and its *_bytes function would walk it.
std::vector<piece> take_all(arena& scratch, std::vector<std::size_t> const& counts) {
  std::vector<piece> pieces;
  for (std::size_t index = 0; index < counts.size(); ++index) {
    switch (index % 4) {
      case 0:
        pieces.push_back(take<char>(scratch, counts[index]));
        break;
      case 1:
        pieces.push_back(take<float>(scratch, counts[index]));
        break;
      case 2:
        pieces.push_back(take<double>(scratch, counts[index]));
        break;
      default:
        pieces.push_back(take<std::uint16_t>(scratch, counts[index]));
        break;
    }
  }
  return pieces;
}

}  // namespace

TEST_CASE("workspace: a default one is empty") {
  CHECK(fkv::workspace{}.data == nullptr);
  CHECK(fkv::workspace{}.size == 0);
}

TEST_CASE("arena: nothing taken needs no bytes") {
  CHECK(arena{}.bytes() == 0);
  arena counting;
  CHECK(counting.take<float>(0) == nullptr);
  CHECK(counting.bytes() == 0);
}

TEST_CASE("arena: without a base it only counts, in whole lines of 64 bytes") {
  arena counting;
  CHECK(counting.take<char>(1) == nullptr);
  CHECK(counting.bytes() == 64 + 63);
  CHECK(counting.take<float>(16) == nullptr);
  CHECK(counting.bytes() == 2 * 64 + 63);
  CHECK(counting.take<double>(9) == nullptr);
  CHECK(counting.bytes() == 4 * 64 + 63);
  arena null_workspace{fkv::workspace{}};
  CHECK(null_workspace.take<double>(9) == nullptr);
  CHECK(null_workspace.bytes() == 2 * 64 + 63);
}

TEST_CASE("arena: counts and cuts alike, and the bytes suffice at every misalignment of the base") {
  std::mt19937 generator{20260203};
  for (int round = 0; round < 20; ++round) {
    std::vector<std::size_t> counts(1 + generator() % 8);
    for (auto& count : counts) count = generator() % 200;
    arena counting;
    take_all(counting, counts);
    auto const bytes = counting.bytes();

    for (std::size_t shift = 0; shift < 64; ++shift) {
      CAPTURE(round);
      CAPTURE(shift);
      std::vector<std::byte> memory(shift + bytes);  // its end is the sanitizer's red zone
      arena cutting{fkv::workspace{memory.data() + shift, bytes}};
      auto const pieces = take_all(cutting, counts);
      CHECK(cutting.bytes() == bytes);

      auto const* end = memory.data() + shift;
      for (auto const& piece : pieces) {
        CHECK(reinterpret_cast<std::uintptr_t>(piece.data) % 64 == 0);
        REQUIRE(piece.data >= end);
        REQUIRE(piece.data + piece.size <= memory.data() + memory.size());
        if (piece.size > 0) std::memset(piece.data, 0xab, piece.size);
        end = piece.data + piece.size;
      }
    }
  }
}
