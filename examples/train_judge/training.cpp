// SPDX-License-Identifier: Apache-2.0
#include "training.hpp"

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <foresightkv/io/file.hpp>
#include <foresightkv/training/batch_sampler.hpp>
#include <nlohmann/json.hpp>
#include <optional>
#include <vector>

#include "checkpoint.hpp"
#include "corpus.hpp"
#include "held_out.hpp"
#include "judges.hpp"
#include "page.hpp"
#include "replays.hpp"
#include "trainer.hpp"

namespace train_judge {
namespace {

namespace io = fkv::io;
namespace training = fkv::training;
using json = nlohmann::ordered_json;

/// The training between its first and its last step.
class run {
 public:
  run(options const& chosen, support::communicator const& world, progress const& report)
      : chosen_(chosen), world_(world), report_(report) {}
  run(run const&) = delete;
  run& operator=(run const&) = delete;

  void operator()(std::string& summary) {
    prepare();
    std::optional<checkpoint> found;
    support::together(world_, [&] { found = find_checkpoint(); });
    begin(found);
    for (; now_.step < chosen_.steps; ++now_.step) {
      if (now_.step == round_start(static_cast<int>(now_.judges.size()))) begin_round();
      if (now_.step % chosen_.measure_every == 0) measure();
      train();
      if ((now_.step + 1) % chosen_.checkpoint_every == 0 || now_.step + 1 == chosen_.steps) save(now_.step + 1);
    }
    measure();
    support::together(world_, [&] { finish(summary); });
  }

 private:
  [[nodiscard]] std::filesystem::path file(char const* name) const { return chosen_.out / name; }

  /// First step of a round; rounds are equally long, but for one step.
  [[nodiscard]] int round_start(int round) const {
    return static_cast<int>(std::int64_t{chosen_.steps} * round / chosen_.rounds);
  }

  void show(std::string const& what) const { report_(static_cast<double>(now_.step) / chosen_.steps, what); }

  /// Everything that does not depend on the weights.
  void prepare() {
    show("reading");
    support::together(world_, [&] {
      all_ = open_corpus(chosen_);
      first_ = first_weights(chosen_, all_);
      identity_ = chosen_.identity() + "data " + all_.fingerprint + "\n";
      if (world_.first()) expect_folder();
    });
    show("future attention");
    find_labels(chosen_, world_, all_);
    held_out_.emplace(chosen_, world_, all_);
    show("golden's caches");
    replays_ = make_replays(chosen_, world_, all_, {});
    for (std::size_t i = 0; i < replays_.size(); ++i) golden_.add(static_cast<std::uint32_t>(i), replays_[i].steps);
    trainer_.emplace(chosen_, world_, all_, replays_, first_);
  }

  /// Finds out before the work that files cannot be written.
  void expect_folder() const {
    std::error_code problem;
    std::filesystem::create_directories(chosen_.out, problem);
    for (auto const* name :
         {"weights.safetensors", "metrics.jsonl", "page.html", "curves.svg", "checkpoint.safetensors"}) {
      for (auto const* inputs : {&chosen_.traces, &chosen_.held_out_traces})
        for (auto const& input : *inputs)
          if (support::same_file(file(name), input))
            throw input_error("refusing to replace the input " + input.string());
      if (support::same_file(file(name), chosen_.weights))
        throw input_error("refusing to replace the input " + chosen_.weights.string());
      io::remove_abandoned(file(name));
      io::output_file{file(name)};
    }
  }

  [[nodiscard]] std::optional<checkpoint> find_checkpoint() const {
    auto const path = file("checkpoint.safetensors");
    if (!chosen_.resume) {
      if (std::filesystem::exists(path))
        throw input_error(chosen_.out.string() + ": holds a training already: --resume goes on with it");
      return {};
    }
    return load_checkpoint(path, identity_, first_.size());
  }

  void begin(std::optional<checkpoint>& found) {
    if (!found) return describe();
    now_ = std::move(*found);
    trainer_->restore(now_.memory);
    for (auto const& judges : now_.judges) replay_judges(judges);
  }

  /// The first lines of the metrics: what is measured on, and what other policies lose there.
  void describe() {
    json line{{"train", json::array()}, {"layers", all_.layers}, {"golden_samples", golden_.size()}};
    for (auto const& from : all_.sequences)
      if (from.train_tokens > 0) line["train"].push_back({{"trace", from.name}, {"tokens", from.train_tokens}});
    note(line);
    if (held_out_->empty()) return;
    show("other policies");
    note({{"policy", "golden"}, {"held_out", loss_json(held_out_->measure_golden())}});
    note({{"policy", "window_sum"}, {"held_out", loss_json(held_out_->measure_window_sum())}});
  }

  void note(json const& line) { now_.metrics += line.dump(-1, ' ', false, json::error_handler_t::replace) + "\n"; }

  [[nodiscard]] json loss_json(held_out_loss const& lost) const {
    json out{{"output_error", lost.total().output_error()},
             {"attention_recall", lost.total().attention_recall()},
             {"layers", json::object()}};
    for (std::size_t i = 0; i < all_.layers.size(); ++i)
      out["layers"][std::to_string(all_.layers[i])] = {{"output_error", lost.layers[i].output_error()},
                                                       {"attention_recall", lost.layers[i].attention_recall()}};
    return out;
  }

  /// Adds the caches that these judges meet to those that are trained on.
  void replay_judges(std::vector<float> const& judges) {
    if (!(chosen_.on_policy > 0.0)) return;
    show("the judges' own caches");
    for (auto& made : make_replays(chosen_, world_, all_, judges)) {
      own_.add(static_cast<std::uint32_t>(replays_.size()), made.steps);
      replays_.push_back(std::move(made));
    }
  }

  void begin_round() {
    now_.judges.push_back(trainer_->weights());
    replay_judges(now_.judges.back());
  }

  void measure() {
    if (held_out_->empty()) return;
    show("measuring");
    note({{"step", now_.step}, {"held_out", loss_json(held_out_->measure(trainer_->weights()))}});
  }

  /// The samples of a step: a share of the judges' own, the rest golden's.
  [[nodiscard]] std::vector<sample> batch() const {
    auto const size = static_cast<std::uint64_t>(chosen_.batch);
    auto const share = own_.size() == 0 ? 0.0 : chosen_.on_policy;
    // Counted over all steps so far, so that small batches come to the share too.
    auto const own_until = [&](std::uint64_t step) {
      return static_cast<std::uint64_t>(share * static_cast<double>(step * size) + 0.5);
    };
    auto const step = static_cast<std::uint64_t>(now_.step);
    auto const own_first = own_until(step), own_last = own_until(step + 1);
    auto const round = static_cast<std::uint32_t>(now_.judges.size());
    training::batch_sampler const own{own_.size(), chosen_.seed, 2 * round + 1};
    training::batch_sampler const golden{golden_.size(), chosen_.seed, 2 * round};
    std::vector<sample> drawn;
    for (auto i = own_first; i < own_last; ++i) drawn.push_back(own_[own.at(i)]);
    for (auto i = step * size - own_first; drawn.size() < size; ++i) drawn.push_back(golden_[golden.at(i)]);
    return drawn;
  }

  void train() {
    auto const samples = batch();
    auto const done = trainer_->step(now_.step, replays_, samples);
    json line{{"step", now_.step},          {"round", now_.judges.size() - 1},     {"loss", done.loss},
              {"learning_rate", done.rate}, {"gradient_norm", done.gradient_norm}, {"clip_rate", done.clip_rate}};
    if (done.skipped != 0) line["skipped"] = true;
    note(line);
    show("loss " + std::to_string(done.loss));
  }

  void save(int steps_done) {
    support::together(world_, [&] {
      if (!world_.first()) return;
      auto copy = now_;
      copy.step = steps_done;
      copy.memory = trainer_->state();
      save_checkpoint(file("checkpoint.safetensors"), identity_, copy);
      write("metrics.jsonl", now_.metrics);
    });
  }

  void finish(std::string& summary) {
    if (!world_.first()) return;
    save_weights(file("weights.safetensors"), chosen_, all_, trainer_->weights());
    auto const curves = read_curves(now_.metrics, chosen_.out.filename().string());
    std::vector<run_curves> all{curves};
    for (auto const& other : chosen_.compare) all.push_back(load_curves(other));
    write("metrics.jsonl", now_.metrics);
    write("curves.svg", svg(all));
    write("page.html", page(all, chosen_.identity()));
    summary = summary_of(curves, file("weights.safetensors").string());
  }

  void write(char const* name, std::string const& text) const {
    io::output_file out(file(name));
    out.write(text);
    out.commit();
  }

  options const& chosen_;
  support::communicator const& world_;
  progress const& report_;
  corpus all_;
  std::vector<float> first_;
  std::string identity_;
  std::optional<held_out> held_out_;
  std::optional<trainer> trainer_;
  std::vector<replay> replays_;  // golden's first, then those of each round
  sample_pool golden_, own_;
  checkpoint now_;
};

}  // namespace

void run_training(options const& chosen, support::communicator const& world, progress const& report,
                  std::string& summary) {
  run training(chosen, world, report);
  training(summary);
}

}  // namespace train_judge
