// SPDX-License-Identifier: Apache-2.0
// Kernels whose registers and spills are looked at: see check_resources.cmake. Every body once at least, as bf16;
// observe and evict as fp8 with half queries too, and in pages, as bf16 and int8, where the key dimension is fixed.
#include <foresightkv/foresightkv.cuh>
#include <foresightkv/golden/eviction.hpp>
#include <foresightkv/training/ranking_hinge.hpp>

namespace fkv = foresightkv;

namespace {

using cache = fkv::dense_cache<fkv::bfloat16>;
using window = fkv::observation<fkv::bfloat16>;
using narrow_cache =
    fkv::dense_cache<fkv::scaled_by_head<fkv::float8_e4m3>, fkv::float8_e4m3, fkv::length_domain::sequence, 128>;
using half_window = fkv::observation<fkv::half, fkv::log_base::two>;

template <class Keys>
using pages = fkv::paged_cache<Keys, 16, Keys, fkv::length_domain::sequence, 128>;
using int8_pages = pages<fkv::scaled_by_token<std::int8_t>>;

template <class Scorer, class Selector, class Compaction>
fkv::status evict(cache const& tokens, window const& seen, fkv::sequence_list const& list,
                  fkv::cuda_execution const& exec, fkv::workspace memory, std::int32_t* new_lengths,
                  Scorer const& scorer) {
  auto const policy = fkv::compose({.budget = 1024, .interval = 128}, scorer, Selector{}, Compaction{});
  auto const state = fkv::make_state(policy, tokens.shape(), 1152, memory);
  (void)fkv::reset(exec, state, list);
  (void)fkv::append(exec, fkv::batch{policy, tokens, list, state}, new_lengths);
  (void)fkv::fork(exec, state, {new_lengths, new_lengths, 1});
  (void)fkv::fork(exec, state, {new_lengths, new_lengths, 1}, memory);
  (void)fkv::save(exec, state, 0, memory);
  (void)fkv::restore(exec, state, 0, memory);
  (void)fkv::carry(exec, fkv::batch{policy, tokens, list, state, memory}, seen);
  (void)fkv::compact(exec, fkv::batch{policy, tokens, list, state, memory}, {}, new_lengths);
  (void)fkv::take_back(exec, fkv::batch{policy, tokens, list, state, memory}, new_lengths, new_lengths);
  (void)fkv::collect_due(exec, fkv::batch{policy, tokens, list, state}, new_lengths, new_lengths);
  return fkv::evict(exec, fkv::batch{policy, tokens, list, state, memory}, seen, {new_lengths});
}

}  // namespace

void foresightkv_hinge_resources(fkv::cuda_execution const& exec, fkv::training::ranking_rows<float> const& input,
                                 float* gradient, fkv::training::hinge_result* result, fkv::workspace memory) {
  (void)fkv::training::ranking_hinge(exec, {}, input, gradient, result, memory);
}

void foresightkv_golden_resources(fkv::cuda_execution const& exec, fkv::golden_input<fkv::bfloat16> const& input,
                                  fkv::golden_output const& output, fkv::workspace memory) {
  (void)fkv::golden_eviction(exec, {}, input, output, memory);
}

void foresightkv_narrow_resources(fkv::cuda_execution const& exec, narrow_cache const& tokens, half_window const& seen,
                                  fkv::sequence_list const& list, std::int32_t* lengths, fkv::workspace memory) {
  using scorer = fkv::weighted_sum<fkv::standardised<fkv::foresight<>>, fkv::standardised<fkv::window_sum>>;
  auto const policy = fkv::compose({.budget = 1024, .interval = 128}, scorer{}, fkv::top_k{}, fkv::fill_holes{});
  auto const state = fkv::make_state(policy, tokens.shape(), 1152, memory);
  (void)fkv::evict(exec, fkv::batch{policy, tokens, list, state, memory}, seen, {lengths});
}

template <class Scorer, class Compaction, class Cache>
fkv::status evict_pages(Cache const& tokens, window const& seen, fkv::sequence_list const& list,
                        fkv::cuda_execution const& exec, fkv::workspace memory, std::int32_t* lengths) {
  auto const policy = fkv::compose({.budget = 1024, .interval = 128}, Scorer{}, fkv::top_k{}, Compaction{});
  auto const state = fkv::make_state(policy, tokens.shape(), 1152, memory);
  (void)fkv::freed_pages(exec, tokens, list, lengths, {});
  (void)fkv::take_back(exec, fkv::batch{policy, tokens, list, state, memory}, lengths, lengths);
  return fkv::evict(exec, fkv::batch{policy, tokens, list, state, memory}, seen, {lengths});
}

/// Into another cache: as bytes, and as int8.
template <class Target>
void move_into(cache const& tokens, Target const& target, fkv::sequence_list const& list,
               fkv::cuda_execution const& exec, fkv::workspace memory, std::int32_t* lengths) {
  auto const policy = fkv::compose({.budget = 1024, .interval = 128}, fkv::key_norm{}, fkv::top_k{}, fkv::ordered{});
  auto const state = fkv::make_state(policy, tokens.shape(), 1152, memory);
  (void)fkv::compact(exec, fkv::batch{policy, tokens, list, state, memory}.into(target), {}, lengths);
}

void foresightkv_into_resources(cache const& tokens, pages<fkv::bfloat16> const& target, int8_pages const& narrow,
                                fkv::sequence_list const& list, fkv::cuda_execution const& exec, fkv::workspace memory,
                                std::int32_t* lengths) {
  move_into(tokens, tokens, list, exec, memory, lengths);
  move_into(tokens, target, list, exec, memory, lengths);
  move_into(tokens, narrow, list, exec, memory, lengths);
}

void foresightkv_paged_resources(pages<fkv::bfloat16> const& tokens, int8_pages const& narrow, window const& seen,
                                 fkv::sequence_list const& list, fkv::cuda_execution const& exec, fkv::workspace memory,
                                 std::int32_t* lengths) {
  (void)evict_pages<fkv::foresight<>, fkv::fill_holes>(tokens, seen, list, exec, memory, lengths);
  (void)evict_pages<fkv::r_kv<>, fkv::ordered>(tokens, seen, list, exec, memory, lengths);
  (void)evict_pages<fkv::foresight<>, fkv::ordered>(narrow, seen, list, exec, memory, lengths);
}

// Never called, as those above: exported so that everything is compiled.
void foresightkv_resources(cache const& tokens, window const& seen, fkv::sequence_list const& list,
                           fkv::cuda_execution const& exec, fkv::workspace memory, std::int32_t* lengths,
                           fkv::foresight<> const& judge) {
  using fkv::fill_holes, fkv::ordered, fkv::sampled_top_k, fkv::slot_list, fkv::top_k;
  (void)evict<fkv::foresight<>, top_k, fill_holes>(tokens, seen, list, exec, memory, lengths, judge);
  auto const sampling = fkv::compose({.budget = 1024, .interval = 128}, fkv::key_norm{}, sampled_top_k{}, ordered{});
  auto const state = fkv::make_state(sampling, tokens.shape(), 1152, memory);
  (void)fkv::select(exec, fkv::batch{sampling, tokens, list, state, memory}, {}, {});
  (void)evict<fkv::r_kv<>, sampled_top_k, ordered>(tokens, seen, list, exec, memory, lengths, {});
  (void)evict<fkv::h2o_per_query, top_k, slot_list>(tokens, seen, list, exec, memory, lengths, {});
}
