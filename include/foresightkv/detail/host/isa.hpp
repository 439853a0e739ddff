// SPDX-License-Identifier: Apache-2.0
#pragma once

// Instruction sets and their run-time choice, for translation units built without any -m flag.
//
// How to write a kernel: a template over the tag, marked [[gnu::always_inline]] inline, called from the
// function handed to with_best_isa:
//
//   with_best_isa([&](auto isa) __attribute__((always_inline)) {
//     using isa_tag = decltype(isa);
//     logits<isa_tag>(...);
//   });
//
// or a struct with `template <class Isa> [[gnu::always_inline]] void operator()(Isa) const`. On a lambda only
// the __attribute__ spelling, after the parameters, is taken by g++ 12 and clang 14 without a warning.
//
// - What is inlined into an entry function is compiled for its target; what is not stays at the baseline,
//   where wide vectors are right but many times slower. The attribute inlines at every optimisation level and
//   in clang; flatten on the entries has GCC inline the rest, above all lambdas, which lose their attributes
//   on the way through nvcc.
// - Vectors never cross a call by value (their ABI depends on the target); kernels take and return
//   references, pointers and scalars.
// - Only the entry functions are emitted for another target, and their names say which, so the linker never
//   merges code of two instruction sets.
// - OpenMP outlines a parallel region before inlining: open the region first, call with_best_isa inside it.
// - FMA instructions come from contraction, which is on by default: -ffp-contract=off splits each in two.

#include <type_traits>

namespace foresightkv::inline v0::detail::host {

/// 16-byte vectors: SSE2, NEON, or whatever the compiler makes of them.
struct isa_baseline {
  static constexpr int lanes = 4;
  using floats = float __attribute__((vector_size(16)));
  using ints = int __attribute__((vector_size(16)));
  using bits = unsigned __attribute__((vector_size(16)));
  using shorts = unsigned short __attribute__((vector_size(8)));
  using bytes = unsigned char __attribute__((vector_size(4)));
};

/// AVX2 and FMA.
struct isa_avx2 {
  static constexpr int lanes = 8;
  using floats = float __attribute__((vector_size(32)));
  using ints = int __attribute__((vector_size(32)));
  using bits = unsigned __attribute__((vector_size(32)));
  using shorts = unsigned short __attribute__((vector_size(16)));
  using bytes = unsigned char __attribute__((vector_size(8)));
};

/// AVX-512 F, BW, VL and DQ.
struct isa_avx512 {
  static constexpr int lanes = 16;
  using floats = float __attribute__((vector_size(64)));
  using ints = int __attribute__((vector_size(64)));
  using bits = unsigned __attribute__((vector_size(64)));
  using shorts = unsigned short __attribute__((vector_size(32)));
  using bytes = unsigned char __attribute__((vector_size(16)));
};

/// A vector anywhere in memory. A packed struct, because clang 14 loses the alignment of an aligned(4)
/// typedef on its way through a template.
template <class Vector>
struct [[gnu::packed, gnu::may_alias]] unaligned {
  Vector value;
};

template <class Isa>
concept instruction_set =
    std::is_same_v<Isa, isa_baseline> || std::is_same_v<Isa, isa_avx2> || std::is_same_v<Isa, isa_avx512>;

// nvcc compiles host code once more for the device and discards it: there wide vectors only cost time (and
// 64-byte ones crash the device compiler of CUDA 13.0).
#if (defined(__x86_64__) || defined(__i386__)) && !defined(__CUDA_ARCH__)
inline constexpr bool has_x86_targets = true;

template <class Function>
[[gnu::flatten, gnu::target("avx2,fma")]] decltype(auto) enter_avx2(Function&& function) {
  return function(isa_avx2{});
}

template <class Function>
[[gnu::flatten, gnu::target("avx2,fma,avx512f,avx512bw,avx512vl,avx512dq")]] decltype(auto) enter_avx512(
    Function&& function) {
  return function(isa_avx512{});
}

inline bool cpu_has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }

inline bool cpu_has_avx512() {
  return cpu_has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
}
#else
inline constexpr bool has_x86_targets = false;
inline bool cpu_has_avx2() { return false; }
inline bool cpu_has_avx512() { return false; }
#endif

/// Whether this processor (and operating system) runs code for `Isa`.
template <instruction_set Isa>
bool supports() {
  if constexpr (std::is_same_v<Isa, isa_avx2>) return cpu_has_avx2();
  if constexpr (std::is_same_v<Isa, isa_avx512>) return cpu_has_avx512();
  return true;
}

/// Calls `function(Isa{})` in code compiled for `Isa`, which must be supported: for tests and benchmarks.
/// Where there are no targets to choose from the tag is isa_baseline, whatever was asked for.
template <instruction_set Isa, class Function>
decltype(auto) with_isa(Function&& function) {
  if constexpr (!has_x86_targets || std::is_same_v<Isa, isa_baseline>) {
    return function(isa_baseline{});
  } else if constexpr (std::is_same_v<Isa, isa_avx2>) {
    return enter_avx2(function);
  } else {
    return enter_avx512(function);
  }
}

/// Calls `function(isa)` with the widest instruction set of this processor, in code compiled for it.
template <class Function>
decltype(auto) with_best_isa(Function&& function) {
  if constexpr (has_x86_targets) {
    if (cpu_has_avx512()) return with_isa<isa_avx512>(function);
    if (cpu_has_avx2()) return with_isa<isa_avx2>(function);
  }
  return with_isa<isa_baseline>(function);
}

}  // namespace foresightkv::inline v0::detail::host
