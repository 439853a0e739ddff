// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <string>
#include <vector>

#include "support/run_vectors.hpp"

namespace testing {

/// A run of the published evaluation code: calls with windows of their own, some of which evict nothing;
/// where its evictions were drawn at random, the stored lists are replayed.
class evaluation_run {
 public:
  using policy_type = judge_policy<fkv::reference_evaluation>;

  evaluation_run(vector_file const& file, recording const& tokens)
      : file_(file),
        heads_(tokens.kv_heads),
        budget_(file.integer("budget")),
        interval_(file.integer("interval")),
        recent_(file.integer("protected")),
        queries_(file.integers("queries_used")),
        cached_(file.integers("cached_before")),
        weights_(file, heads_, tokens.group, tokens.dim),
        policy_{{.budget = budget_, .interval = interval_, .recent_tokens = recent_}, {weights_.view()}, {}, {}, {}},
        run_(tokens, policy_, *std::max_element(cached_.begin(), cached_.end()), layout::hnd) {}

  void check() {
    bool const drawn = file_.text("pick").find("sampled") != std::string::npos;
    int const calls = file_.integer("calls");
    REQUIRE(static_cast<int>(std::min(queries_.size(), cached_.size())) == calls);
    for (int call = 0; call < calls; ++call) {
      INFO("call " << call);
      prefix_ = "call" + std::to_string(call) + ".";
      run_.append(file_.integer("prefill") + call * interval_);
      auto const index = static_cast<std::size_t>(call);
      REQUIRE(run_.length() == cached_[index]);
      excess_ = std::max(run_.length() - budget_, 0);
      CHECK((file_.integers("evicts")[index] != 0) == (excess_ > 0));

      owned_state<policy_type> const before = run_.state;
      run_.look(queries_[index]);
      run_.carried_before = run_.state;
      check_features();
      CHECK(file_.has(prefix_ + "evicted") == (excess_ > 0));
      if (excess_ == 0) continue;
      check_scores();
      if (drawn) {
        replay_lists();
      } else {
        run_.state = before;  // `step` observes and carries by itself
        run_.step(queries_[index]);
      }
      check_lists();
    }
    check_end();
  }

 private:
  [[nodiscard]] int candidates() const { return run_.length() - recent_; }

  void check_features() {
    worst_difference worst;
    int const width = 8 * run_.shape().group;
    auto const features = file_.floats(prefix_ + "stats", {heads_, candidates(), width});
    for (int head = 0; head < heads_; ++head)
      add_statistics<fkv::reference_evaluation>(
          run_, head, candidates(), features.data() + static_cast<std::ptrdiff_t>(head * candidates()) * width, worst);
    INFO("statistics off by " << worst.value());
    CHECK(worst.within(file_.number("tol_stats_abs")));
  }

  void check_scores() {
    worst_difference worst;
    auto const drop = file_.floats(prefix_ + "drop_score", {heads_, candidates()});
    for (int head = 0; head < heads_; ++head)
      for (int slot = 0; slot < candidates(); ++slot)
        worst.add(run_.scores.at(head, slot), -drop[static_cast<std::size_t>(head * candidates() + slot)]);
    INFO("scores off by " << worst.value());
    CHECK(worst.within(file_.number("tol_score_abs")));
  }

  /// Lists as select would write them, from the stored indices; then compact.
  void replay_lists() {
    auto const evicted = file_.ints(prefix_ + "evicted", {heads_, excess_});
    auto const& columns = run_.state.view;
    for (int head = 0; head < heads_; ++head) {
      std::int32_t const* next = evicted.data() + head * excess_;
      std::int32_t const* const end = next + excess_;
      auto kept = run_.lists.view().at(head);
      auto gone = kept;
      for (int slot = 0; slot < run_.length(); ++slot) {
        if (next == end || *next != slot) {
          run_.lists.kept[kept++] = slot;
          continue;
        }
        run_.lists.evicted_positions[gone] =
            columns.step[head] == 0 ? slot : columns.position[columns.column(head, slot)];
        run_.lists.evicted[gone++] = slot;
        ++next;
      }
      REQUIRE(next == end);
      run_.lists.evicted_count[static_cast<std::size_t>(head)] = excess_;
    }
    auto work = workspace_for<policy_type>(run_.shape(), run_.list(), 0);
    guarded<std::int32_t> new_length(1, -7);
    REQUIRE(fkv::compact(testing::exec,
                         fkv::batch{policy_, run_.cache.view(), run_.list(), run_.state.view, work.view()},
                         run_.lists.view(), new_length.data())
                .ok());
    CHECK(new_length[0] == budget_);
    run_.cache.lengths[0] = new_length[0];
  }

  void check_lists() {
    int wrong = 0;
    auto const evicted = file_.ints(prefix_ + "evicted", {heads_, excess_});
    auto const positions = file_.ints(prefix_ + "evicted_positions", {heads_, excess_});
    auto const kept = file_.ints(prefix_ + "kept_positions", {heads_, budget_});
    for (int head = 0; head < heads_; ++head) {
      wrong += mismatches(run_.lists.evicted_of(head), evicted.data() + head * excess_, excess_);
      wrong += mismatches(run_.lists.positions_of(head), positions.data() + head * excess_, excess_);
      wrong += mismatches(run_.positions(head), kept.data() + head * budget_, budget_);
    }
    CHECK(wrong == 0);
  }

  void check_end() {
    worst_difference sums;
    int const width = run_.length() * run_.shape().group;
    auto const final_acc = file_.floats("final_acc", {heads_, run_.length(), run_.shape().group});
    for (int head = 0; head < heads_; ++head)
      for (int i = 0; i < width; ++i)
        sums.add(run_.state.view.carried_at(head, 0)[i], final_acc[static_cast<std::size_t>(head * width + i)]);
    INFO("accumulated off by " << sums.value());
    CHECK(sums.within(file_.number("tol_stats_abs")));
  }

  vector_file const& file_;
  int heads_, budget_, interval_, recent_;
  std::vector<int> queries_, cached_;
  packed_weights weights_;
  policy_type policy_;
  replay<policy_type> run_;
  std::string prefix_;
  int excess_ = 0;
};

inline void check_statistics(fkv::io::safetensors_file const& stored) {
  vector_file const file(stored);
  recording const tokens = recording::read(file);
  std::string const policy = file.text("policy");
  if (policy == "paper") return check_run<fkv::paper>(file, tokens, "", layout::nhd);
  if (policy == "reference_checkpoint") return check_run<fkv::reference_checkpoint>(file, tokens, "", layout::hnd);
  if (policy == "reference_eval") return evaluation_run(file, tokens).check();
  FAIL_CHECK("unknown policy " << policy);
}

}  // namespace testing
