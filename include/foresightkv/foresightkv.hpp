// SPDX-License-Identifier: Apache-2.0
#pragma once

/// \file
/// Everything that a plain C++ engine needs: caches, scorers, policies and the verbs on the host.

#include <foresightkv/append.hpp>
#include <foresightkv/budgets/per_sequence.hpp>
#include <foresightkv/caches/dense.hpp>
#include <foresightkv/carry.hpp>
#include <foresightkv/collect_due.hpp>
#include <foresightkv/combinators/group.hpp>
#include <foresightkv/combinators/max_pool.hpp>
#include <foresightkv/combinators/mean_pool.hpp>
#include <foresightkv/combinators/softmax.hpp>
#include <foresightkv/combinators/standardised.hpp>
#include <foresightkv/combinators/weighted_sum.hpp>
#include <foresightkv/compact.hpp>
#include <foresightkv/evict.hpp>
#include <foresightkv/evictor.hpp>
#include <foresightkv/fork.hpp>
#include <foresightkv/observe.hpp>
#include <foresightkv/reset.hpp>
#include <foresightkv/save.hpp>
#include <foresightkv/score.hpp>
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
#include <foresightkv/select.hpp>
#include <foresightkv/selectors/sampled_top_k.hpp>
#include <foresightkv/selectors/top_k.hpp>
#include <foresightkv/version.hpp>
