// SPDX-License-Identifier: Apache-2.0
// A compile-time Golden Eviction config whose interval is larger than its budget.
// expect-error: foresightkv: golden_config must have 0 < interval <= budget and a discount between 0 and 1
#include <foresightkv/golden/config.hpp>

namespace fkv = foresightkv;

#ifdef SHOULD_FAIL
inline constexpr int interval = 65;
#else
inline constexpr int interval = 64;
#endif

inline constexpr fkv::golden<fkv::golden_config{.budget = 64, .interval = interval}> config{};
