// SPDX-License-Identifier: Apache-2.0
#include "checkpoint.hpp"

#include <cstdint>
#include <foresightkv/io/safetensors.hpp>
#include <limits>
#include <string_view>

namespace train_judge {
namespace {

namespace io = fkv::io;

constexpr std::string_view format = "foresightkv training 1";

std::string_view first_difference(std::string_view a, std::string_view b) {
  while (!a.empty()) {
    auto const end = a.find('\n');
    auto const line = a.substr(0, end);
    if (!b.starts_with(line) || b.substr(line.size(), 1) != "\n") return line;
    a.remove_prefix(end + 1);
    b.remove_prefix(end + 1);
  }
  return {};
}

}  // namespace

void save_checkpoint(std::filesystem::path const& path, std::string const& identity, checkpoint const& what) {
  auto const floats = static_cast<std::int64_t>(what.memory.trained.size());
  std::vector<float> judges;
  for (auto const& round : what.judges) judges.insert(judges.end(), round.begin(), round.end());
  io::safetensors_writer file(path);
  file.add("trained", {floats}, what.memory.trained)
      .add("mean", {floats}, what.memory.mean)
      .add("square", {floats}, what.memory.square)
      .add("judges", {std::ssize(what.judges), floats}, judges)
      .add("metrics", io::dtype::u8, {std::ssize(what.metrics)}, std::as_bytes(std::span(what.metrics)))
      .metadata("format", std::string(format))
      .metadata("identity", identity)
      .metadata("step", std::to_string(what.step))
      .save();
}

std::optional<checkpoint> load_checkpoint(std::filesystem::path const& path, std::string const& identity,
                                          std::size_t floats) {
  if (!std::filesystem::exists(path)) return {};
  io::safetensors_file const file(path);
  if (file.metadata("format") != format) throw input_error(path.string() + ": is no checkpoint of train_judge");
  auto const found = file.metadata("identity").value_or("");
  if (found != identity)
    throw input_error(path.string() + ": belongs to another training: there, not '" +
                      std::string(first_difference(identity, found)) + "'");
  checkpoint what;
  what.step = support::parse_number("step", file.metadata("step").value_or(""), 0);
  auto const count = static_cast<std::int64_t>(floats);
  auto const read = [&](char const* name) { return file.at(name).expect_shape({count}).to_float(); };
  what.memory = {read("trained"), read("mean"), read("square")};
  auto const& judges = file.at("judges").expect_shape({io::tensor::any, count});
  auto const all = judges.to_float();
  for (std::int64_t round = 0; round < judges.shape[0]; ++round)
    what.judges.emplace_back(all.begin() + round * count, all.begin() + (round + 1) * count);
  for (auto const byte : file.at("metrics").bytes) what.metrics += static_cast<char>(byte);
  return what;
}

}  // namespace train_judge
