// SPDX-License-Identifier: Apache-2.0
// expect-error: foresightkv: a judge reads eight statistics
#include <foresightkv/foresightkv.hpp>

namespace fkv = foresightkv;

#ifdef SHOULD_FAIL
using features = fkv::judge_features<fkv::sum>;
#else
using features = fkv::judge_features<fkv::sum, fkv::sum, fkv::sum, fkv::sum, fkv::sum, fkv::sum, fkv::sum, fkv::sum>;
#endif

fkv::foresight<features> scorer;
