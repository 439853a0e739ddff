// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <concepts>
#include <cstdint>
#include <foresightkv/detail/kernels/block_context.hpp>
#include <foresightkv/detail/kernels/unrolled.hpp>
#include <foresightkv/detail/kernels/vector_copy.hpp>
#include <foresightkv/element.hpp>
#include <type_traits>

namespace foresightkv::inline v0::detail::kernels {

template <class Layout>
inline constexpr bool is_one_byte =
    std::same_as<Layout, float8_e4m3> || std::same_as<Layout, float8_e5m2> || std::same_as<Layout, std::int8_t>;

template <class A, class B>
constexpr auto tensor_element_of() {
  constexpr bool brain = std::same_as<A, bfloat16> || std::same_as<B, bfloat16>;
  constexpr bool ieee = std::same_as<A, half> || std::same_as<B, half>;
  constexpr bool narrow = (std::same_as<A, bfloat16> || std::same_as<A, half> ||
                           is_one_byte<A>)&&(std::same_as<B, bfloat16> || std::same_as<B, half> || is_one_byte<B>);
  if constexpr (!narrow || (brain && ieee))
    return;
  else if constexpr (brain)
    return bfloat16{};
  else
    return half{};
}

/// The 16-bit type that holds every value of both storage types exactly, in which tensor cores multiply them; void
/// where there is none. Both fp8 formats and int8 fit into either.
template <class A, class B>
using tensor_element = decltype(tensor_element_of<typename layout_of<A>::type, typename layout_of<B>::type>());

/// Largest dimension of vectors that tensor cores multiply here: it decides how many registers a warp's vectors take.
inline constexpr int max_tensor_dims = 256;

/// The smallest number of dimensions that kernels are written for and that `dims` fit into; 0 if none is.
constexpr int tensor_dims(int dims) {
  for (int const fits : {64, 96, 128, 192, max_tensor_dims})
    if (dims <= fits) return fits;
  return 0;
}

/// Calls with(std::integral_constant<int, tensor_dims(dims)>), compiled for Known dimensions alone where that is not 0.
/// False if tensor cores cannot do it.
template <int Known, class With>
bool with_tensor_dims(int dims, With const& with) {
  auto const call = [&]<int Dims>() {
    if (tensor_dims(dims) != Dims) return false;
    with(std::integral_constant<int, Dims>{});
    return true;
  };
  if constexpr (tensor_dims(Known) == 0)
    return false;
  else if constexpr (Known != 0)
    return call.template operator()<tensor_dims(Known)>();
  else
    return call.template operator()<64>() || call.template operator()<96>() || call.template operator()<128>() ||
           call.template operator()<192>() || call.template operator()<max_tensor_dims>();
}

/// Vectors in shared memory that all warps multiply with.
template <int Dims>
struct tensor_memory {
  static constexpr int width = Dims > 128 ? 32 : 64;
  vector16 common[width][Dims / 8];
};

/// Dot products on tensor cores: of vectors that a warp has in its registers (`own`) with vectors that pass through
/// shared memory and are the same for all warps (`common`). Elements are exact, sums fp32, in an order that depends on
/// Dims alone.
///
/// A sum does not care which k comes first, as long as both operands agree. So a lane holds the 16 bytes at dimension
/// 32 * chunk + 8 * (lane % 4) of its vectors, and takes their first half as the operands of one product and the second
/// half as those of the next: registers are filled by whole vectors, from global and from shared memory, without a
/// transposition.
template <class Element, int Dims>
struct tensor_tile {
  static_assert(Dims % 32 == 0 && Dims <= max_tensor_dims);
  using element_type = Element;
  static constexpr int chunks = Dims / 32;
  static constexpr int blocks = Dims > 128 ? 1 : 2;         // of 16 own vectors: more do not fit into registers
  static constexpr int own = 16 * blocks;                   // a warp's own vectors
  static constexpr int width = tensor_memory<Dims>::width;  // vectors in shared memory at a time
  static constexpr int steps = width / 8;                   // common vectors are multiplied eight at a time
  static constexpr int vectors = Dims / 8;                  // of 16 bytes
  static constexpr int own_of_thread = 2 * blocks;          // own vectors whose products a lane gets

  using shared = tensor_memory<Dims>;
  /// 32 dimensions of a warp's own vectors.
  struct fragment {
    std::uint32_t words[blocks][2][4];
  };
  using fragments = fragment[chunks];

  /// Products of a lane: [block][2 * (row / 8) + column % 2], see `own_of` and `common_of`.
  using products = float[blocks][4];

  /// The own vector of this lane's products [i / 2][2 * (i % 2) + 0 or 1].
  template <class Context>
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE static int own_of(Context const& c, int i) {
    return 8 * i + c.rank() % warp_size / 4;
  }
  /// The common vector of this lane's products [.][.. + side] of a step.
  template <class Context>
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE static int common_of(Context const& c, int step, int side) {
    return 8 * step + 2 * (c.rank() % 4) + side;
  }

  /// Own vectors from memory, 32 dimensions of each: vector_at(i) for i < own; null stands for zeros.
  template <class Context, class VectorAt>
  FORESIGHTKV_HOST_DEVICE static void load(Context const& c, int chunk, int dims, VectorAt const& vector_at,
                                           fragment& to) {
    int const first = 32 * chunk + 8 * (c.rank() % 4);
    unrolled<own_of_thread>([&](int i) {
      vector16 const eight = load_eight(c, vector_at(own_of(c, i)), first, dims);
      unrolled<4>([&](int word) { to.words[i / 2][word / 2][i % 2 + 2 * (word % 2)] = eight.word[word]; });
    });
  }
  template <class Context, class VectorAt>
  FORESIGHTKV_HOST_DEVICE static void load(Context const& c, int dims, VectorAt const& vector_at, fragments& to) {
    unrolled<chunks>([&](int chunk) { load(c, chunk, dims, vector_at, to[chunk]); });
  }

  /// Starts to bring common vectors into shared memory: vector_at(i) for i < count; beyond come zeros.
  template <class Context, class VectorAt>
  FORESIGHTKV_HOST_DEVICE static void fetch(Context const& c, shared& memory, int count, int dims,
                                            VectorAt const& vector_at) {
    for (int i = c.rank(); i < width * vectors; i += Context::threads) {
      int const row = i / vectors;
      auto const* const from = row < count ? vector_at(row) : nullptr;
      fetch_eight(c, at(memory, row, i % vectors), from, i % vectors * 8, dims);
    }
  }
  /// Eight elements of a common vector, as a block computes them.
  FORESIGHTKV_HOST_DEVICE static vector16& at(shared& memory, int row, int vector) {
    return memory.common[row][placed(row, vector)];
  }

  /// sums += products of all own vectors with the common ones of one step.
  template <class Context>
  FORESIGHTKV_HOST_DEVICE static void multiply(Context const& c, shared const& memory, fragments const& own_vectors,
                                               int step, products& sums) {
    unrolled<chunks>([&](int chunk) { multiply(c, memory, own_vectors[chunk], chunk, step, sums); });
  }
  /// The same for 32 dimensions.
  template <class Context>
  FORESIGHTKV_HOST_DEVICE static void multiply(Context const& c, shared const& memory, fragment const& own_part,
                                               int chunk, int step, products& sums) {
    int const row = 8 * step + c.rank() % warp_size / 4;
    vector16 const common = memory.common[row][placed(row, 4 * chunk + c.rank() % 4)];
    unrolled<blocks>([&](int block) {
      c.template mma<Element>(sums[block], own_part.words[block][0], {common.word[0], common.word[1]});
      c.template mma<Element>(sums[block], own_part.words[block][1], {common.word[2], common.word[3]});
    });
  }

 private:
  /// Where a vector of 16 bytes lies in its row, so that eight lanes that read two rows hit all banks: rows that are a
  /// multiple of 128 bytes long would start at the same one.
  FORESIGHTKV_HOST_DEVICE static constexpr int placed(int row, int vector) {
    return vectors % 8 == 0 ? vector ^ row % 2 * 4 : vector;
  }

  /// Elements [first, first + 8) of a vector; those from `dims` on are zero.
  template <class Context, class Stored>
  FORESIGHTKV_HOST_DEVICE static vector16 load_eight(Context const& c, Stored const* vector, int first, int dims) {
    constexpr bool as_stored = std::same_as<typename layout_of<Stored>::type, Element>;
    vector16 eight{};
    if (vector == nullptr || first >= dims) return eight;
    Stored const* const from = vector + first;
    if constexpr (as_stored)
      if (dims - first >= 8 && aligned_to(from, from, vector_bytes)) return *reinterpret_cast<vector16 const*>(from);
    auto const element = [&](int i) { return first + i < dims ? to_float(from[i]) : 0.0f; };
    if constexpr (sizeof(Stored) == 1)
      if (dims - first >= 8 && aligned_to(from, from, 8))
        return widen_eight(c, *reinterpret_cast<vector8<Stored> const*>(from));
    for (int pair = 0; pair < 4; ++pair)
      eight.word[pair] = c.template pack<Element>(element(2 * pair), element(2 * pair + 1));
    return eight;
  }
  template <class Stored>
  struct [[gnu::may_alias]] alignas(8) vector8 {
    Stored element[8];
  };
  template <class Context, class Stored>
  FORESIGHTKV_HOST_DEVICE static vector16 widen_eight(Context const& c, vector8<Stored> narrow) {
    vector16 eight;
    for (int pair = 0; pair < 4; ++pair)
      eight.word[pair] =
          c.template pack<Element>(to_float(narrow.element[2 * pair]), to_float(narrow.element[2 * pair + 1]));
    return eight;
  }
  template <class Context, class Stored>
  FORESIGHTKV_HOST_DEVICE static void fetch_eight(Context const& c, vector16& to, Stored const* vector, int first,
                                                  int dims) {
    if constexpr (std::same_as<typename layout_of<Stored>::type, Element>) {
      if (vector != nullptr && dims - first >= 8 && aligned_to(vector + first, &to, vector_bytes)) {
        c.template copy_async<vector_bytes>(&to, vector + first);
        return;
      }
    }
    to = load_eight(c, vector, first, dims);
  }
};

}  // namespace foresightkv::inline v0::detail::kernels
