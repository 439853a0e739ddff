// SPDX-License-Identifier: Apache-2.0
// long_trace FILE TOKENS [KV_HEADS GROUP HEAD_DIM]: one layer of random attention in F16, to measure
// golden_labels on.
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <foresightkv/io/trace.hpp>
#include <random>
#include <span>
#include <vector>

namespace {

namespace io = foresightkv::io;

std::vector<float> random_values(std::mt19937& generator, int heads, int tokens, int dim) {
  std::vector<float> values(static_cast<std::size_t>(heads) * static_cast<std::size_t>(tokens) *
                            static_cast<std::size_t>(dim));
  std::normal_distribution<float> normal;
  for (auto& value : values) value = normal(generator);
  return values;
}

void write(char const* path, io::trace_shape const& shape) {
  std::mt19937 generator(1);
  io::trace_layer const layer{.number = 0,
                              .shape = shape,
                              .query = random_values(generator, shape.heads, shape.tokens, shape.key_head_dim),
                              .key = random_values(generator, shape.kv_heads, shape.tokens, shape.key_head_dim),
                              .value = random_values(generator, shape.kv_heads, shape.tokens, shape.value_head_dim)};
  io::write_trace<foresightkv::half>(path, std::span(&layer, 1));
}

}  // namespace

int main(int count, char** arguments) try {
  auto const number = [&](int index, int otherwise) { return index < count ? std::atoi(arguments[index]) : otherwise; };
  int const tokens = number(2, 0), kv_heads = number(3, 8), group = number(4, 4), dim = number(5, 128);
  if (count < 3 || tokens < 1 || kv_heads < 1 || group < 1 || dim < 1) {
    std::fputs("usage: long_trace FILE TOKENS [KV_HEADS GROUP HEAD_DIM]\n", stderr);
    return 2;
  }
  write(arguments[1], {.heads = kv_heads * group,
                       .kv_heads = kv_heads,
                       .tokens = tokens,
                       .key_head_dim = dim,
                       .value_head_dim = 1});  // labels do not look at values
  return 0;
} catch (std::exception const& problem) {
  std::fprintf(stderr, "long_trace: %s\n", problem.what());
  return 2;
}
