// SPDX-License-Identifier: Apache-2.0
// A compile-time config whose sinks and recent window do not fit the budget.
// expect-error: foresightkv: config must have positive counts and sinks + recent window inside the budget
#include <foresightkv/config.hpp>

namespace fkv = foresightkv;

#ifdef SHOULD_FAIL
inline constexpr int sinks = 9;
#else
inline constexpr int sinks = 8;
#endif

inline constexpr fkv::fixed<fkv::eviction_config{.budget = 24, .interval = 16, .sink_tokens = sinks}> config{};
static_assert(static_cast<fkv::eviction_config>(config).budget == 24);
