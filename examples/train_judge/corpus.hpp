// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <deque>
#include <foresightkv/foresightkv.hpp>
#include <foresightkv/io/trace.hpp>
#include <foresightkv/training/replay_config.hpp>
#include <string>
#include <variant>
#include <vector>

#include "options.hpp"
#include "support/communicator.hpp"

namespace train_judge {

inline std::size_t as_size(std::int64_t count) { return static_cast<std::size_t>(count); }

inline void require(fkv::status done, char const* what) {
  if (!done.ok()) throw std::runtime_error(std::string(what) + ": " + done.message());
}

/// A layer of a trace where it lies: in the mapped file, in the type that it is stored in.
using layer_view = std::variant<fkv::training::recorded_layer<float>, fkv::training::recorded_layer<fkv::half>,
                                fkv::training::recorded_layer<fkv::bfloat16>>;

/// One layer of one sequence to train on.
struct sequence_layer {
  layer_view view;                        ///< of the tokens to train on
  fkv::io::trace_layer widened;           ///< what `view` looks at where the file's own memory does not do
  std::vector<float> future;              ///< [kv_heads][rows][tokens]: golden's scores
  fkv::training::future_scores scores{};  ///< of `future`
};

/// A trace, and which of its tokens are for what.
struct sequence {
  std::string name;  ///< the file's name without its folders
  fkv::io::trace const* trace = nullptr;
  int train_tokens = 0;                ///< the first of it; 0: none
  int measure_from = 0;                ///< tokens cached when the first measured eviction comes
  int measure_to = 0;                  ///< 0: nothing is measured
  std::vector<sequence_layer> layers;  ///< where there are tokens to train on
};

/// Everything that is read, on every process: traces are mapped, so they share its memory.
struct corpus {
  std::vector<int> layers;  ///< numbers in the model, ascending
  fkv::judge_shape shape;   ///< num_layers: of `layers`
  std::deque<fkv::io::trace> traces;
  std::vector<sequence> sequences;
  std::string fingerprint;  ///< of all that is read: what a checkpoint was made from
};

/// Opens all traces and checks that they fit each other and the options. Not collective.
/// Throws `input_error` or `io::error`.
[[nodiscard]] corpus open_corpus(options const& chosen);

/// Collective: finds golden's scores of every sequence to train on, shared out over the processes.
void find_labels(options const& chosen, support::communicator const& world, corpus& all);

/// Threads that a process may use.
[[nodiscard]] int threads_of(options const& chosen);

}  // namespace train_judge
