// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include <foresightkv/element.hpp>

namespace testing {

// Which elements of the matrices a lane's registers hold in PTX's mma.m16n8k16 for 16-bit floats (PTX ISA,
// "Matrix fragments for mma.m16n8k16 with floating point type"). Registers of A and B hold two elements, the
// lower column (row, for B) in the lower half.

struct matrix_place {
  int row, column;
};

/// Element `half` of register `part` of A, 16 x 16.
constexpr matrix_place fragment_a(int lane, int part, int half) {
  return {lane / 4 + part % 2 * 8, lane % 4 * 2 + half + part / 2 * 8};
}
/// Element `half` of register `part` of B, 16 x 8.
constexpr matrix_place fragment_b(int lane, int part, int half) { return {lane % 4 * 2 + half + part * 8, lane / 4}; }
/// Value `part` of the accumulator, 16 x 8.
constexpr matrix_place fragment_c(int lane, int part) { return {lane / 4 + part / 2 * 8, lane % 4 * 2 + part % 2}; }

/// The matrices of one product: sums += a b, each sum in fp32 and in order of k.
struct matrix_product {
  float a[16][16], b[16][8], sums[16][8];

  template <class Element>
  void set_a(int lane, int part, std::uint32_t pair) {
    for (int half = 0; half < 2; ++half) {
      auto const at = fragment_a(lane, part, half);
      a[at.row][at.column] = value<Element>(pair, half);
    }
  }
  template <class Element>
  void set_b(int lane, int part, std::uint32_t pair) {
    for (int half = 0; half < 2; ++half) {
      auto const at = fragment_b(lane, part, half);
      b[at.row][at.column] = value<Element>(pair, half);
    }
  }
  float& sum(int lane, int part) {
    auto const at = fragment_c(lane, part);
    return sums[at.row][at.column];
  }

  void multiply() {
    using eight [[gnu::vector_size(32), gnu::aligned(4), gnu::may_alias]] = float;
    for (int row = 0; row < 16; ++row) {
      eight line = *reinterpret_cast<eight const*>(sums[row]);
      for (int k = 0; k < 16; ++k) line += a[row][k] * *reinterpret_cast<eight const*>(b[k]);
      *reinterpret_cast<eight*>(sums[row]) = line;
    }
  }

 private:
  template <class Element>
  static float value(std::uint32_t pair, int half) {
    return foresightkv::to_float(Element{static_cast<std::uint16_t>(pair >> 16 * half)});
  }
};

}  // namespace testing
