// SPDX-License-Identifier: Apache-2.0
// expect-error: foresightkv: a statistic must have initial and float fold(float value, float probability, int age), or
#include <foresightkv/foresightkv.hpp>

namespace fkv = foresightkv;

#ifdef SHOULD_FAIL
using real = double;
#else
using real = float;
#endif

struct my_sum {
  static constexpr float initial = 0.0f;
  static real fold(real a, float p, int) { return a + p; }
};

fkv::statistics<my_sum> reads;
