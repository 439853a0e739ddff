// SPDX-License-Identifier: Apache-2.0
#pragma once

/// \file
/// Everything that a plain C++ engine needs: caches, scorers, policies and the verbs on the host.

#include <foresightkv/budgets/per_sequence.hpp>
#include <foresightkv/caches/dense.hpp>
#include <foresightkv/caches/padded.hpp>
#include <foresightkv/caches/paged.hpp>
#include <foresightkv/caches/with_column.hpp>
#include <foresightkv/combinators/group.hpp>
#include <foresightkv/combinators/max_pool.hpp>
#include <foresightkv/combinators/mean_pool.hpp>
#include <foresightkv/combinators/softmax.hpp>
#include <foresightkv/combinators/standardised.hpp>
#include <foresightkv/combinators/weighted_sum.hpp>
#include <foresightkv/evictor.hpp>
#include <foresightkv/scorers/accumulated_sum.hpp>
#include <foresightkv/scorers/foresight.hpp>
#include <foresightkv/scorers/h2o.hpp>
#include <foresightkv/scorers/h2o_per_query.hpp>
#include <foresightkv/scorers/key_diff.hpp>
#include <foresightkv/scorers/key_norm.hpp>
#include <foresightkv/scorers/r_kv.hpp>
#include <foresightkv/scorers/random.hpp>
#include <foresightkv/scorers/snap_kv.hpp>
#include <foresightkv/scorers/streaming_llm.hpp>
#include <foresightkv/scorers/tova.hpp>
#include <foresightkv/scorers/window_sum.hpp>
#include <foresightkv/selectors/sampled_top_k.hpp>
#include <foresightkv/selectors/top_k.hpp>
#include <foresightkv/verbs/append.hpp>
#include <foresightkv/verbs/carry.hpp>
#include <foresightkv/verbs/collect_due.hpp>
#include <foresightkv/verbs/compact.hpp>
#include <foresightkv/verbs/evict.hpp>
#include <foresightkv/verbs/fork.hpp>
#include <foresightkv/verbs/freed_pages.hpp>
#include <foresightkv/verbs/observe.hpp>
#include <foresightkv/verbs/reset.hpp>
#include <foresightkv/verbs/save.hpp>
#include <foresightkv/verbs/score.hpp>
#include <foresightkv/verbs/select.hpp>
#include <foresightkv/verbs/take_back.hpp>
#include <foresightkv/version.hpp>
