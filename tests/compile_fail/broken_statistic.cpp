// SPDX-License-Identifier: Apache-2.0
// expect-error: foresightkv: a statistic must have initial and float fold(float value, float probability, int age), or
#include <foresightkv/foresightkv.hpp>

namespace fkv = foresightkv;

struct second_moment {
#ifndef SHOULD_FAIL
  static constexpr float initial = 0.0f;
#endif
  static float fold(float a, float p, int) { return a + p * p; }
};

fkv::statistics<second_moment> reads;
