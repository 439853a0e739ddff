// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <memory>
#include <random>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include <foresightkv/io/safetensors.hpp>

#include "io/temporary_folder.hpp"
#include "support/data.hpp"

namespace fkv = foresightkv;
namespace io = foresightkv::io;

namespace {

using namespace std::string_literals;

std::string with_length(std::uint64_t length, std::string_view rest) {
  std::string bytes(sizeof length, '\0');
  std::memcpy(bytes.data(), &length, sizeof length);
  return bytes.append(rest);
}

std::uint64_t length_of(std::string_view bytes) {
  std::uint64_t length = 0;
  std::memcpy(&length, bytes.data(), sizeof length);
  return length;
}

std::string file_of(std::string_view header, std::string_view data = "") {
  return with_length(header.size(), std::string(header).append(data));
}

/// What the reader says of a file that begins with these bytes, without the file's name.
std::string verdict(std::string const& bytes) {
  // A block of exactly this size, so that the address sanitizer sees one byte too many being read.
  auto const block = std::make_unique<std::byte[]>(bytes.size());
  if (!bytes.empty()) std::memcpy(block.get(), bytes.data(), bytes.size());
  io::tensor_map tensors;
  io::metadata_map metadata;
  auto said = test::message_of<io::error>([&] {
    io::detail::parse_safetensors("f", {block.get(), bytes.size()}, tensors, metadata);
  });
  if (said != "nothing was thrown") {
    REQUIRE(said.starts_with("f: "));
    CHECK(said.find('\n') == said.npos);
    return said.substr(3);
  }
  // What opens is consistent: tensors lie in the block, fit their shapes, and together are all of the data.
  std::size_t covered = 8 + length_of(bytes);
  for (auto const& [name, tensor] : tensors) {
    std::size_t size = io::element_size(tensor.dtype);
    for (auto const extent : tensor.shape) size *= static_cast<std::size_t>(extent);
    REQUIRE(tensor.bytes.size() == size);
    REQUIRE(tensor.bytes.data() >= block.get());
    REQUIRE(tensor.bytes.data() + size <= block.get() + bytes.size());
    REQUIRE(tensor.to_float().size() == tensor.size());
    covered += size;
  }
  REQUIRE(covered == bytes.size());
  return "opens";
}

std::string entry(std::string_view name, std::string_view dtype, std::string_view shape, std::string_view offsets) {
  return "\"" + std::string(name) + R"(":{"dtype":")" + std::string(dtype) + R"(","shape":)" + std::string(shape) +
         R"(,"data_offsets":)" + std::string(offsets) + "}";
}

/// A small valid file of each kind that the format allows.
std::vector<std::string> valid_files() {
  std::string const data(64, '\x3c');
  return {
      file_of("{}"),
      file_of("{ }   "),
      file_of(R"({"__metadata__":{}})"),
      file_of("{" + entry("a", "F32", "[2,3]", "[0,24]") + "," + entry("b", "U8", "[8]", "[24,32]") + "}",
              data.substr(0, 32)),
      file_of(R"({"__metadata__":{"k":"v","w":"\u00e9\n"},)" + entry("b", "F16", "[2]", "[40,44]") + "," +
                  entry("a", "I64", "[5]", "[0,40]") + "," + entry("none", "F32", "[0,7]", "[40,40]") + "," +
                  entry("scalar", "BOOL", "[]", "[44,45]") + "}  ",
              data.substr(0, 45)),
      file_of("{\n} \t\r\n"),
  };
}

}  // namespace

TEST_CASE("safetensors: the small valid files open") {
  for (auto const& bytes : valid_files()) CHECK(verdict(bytes) == "opens");
}

TEST_CASE("safetensors: every dtype makes the round trip") {
  test::temporary_folder const folder;
  auto const path = folder / "all.safetensors";
  std::array<unsigned char, 48> pattern{};
  for (std::size_t i = 0; i < pattern.size(); ++i) pattern[i] = static_cast<unsigned char>(i * 37 + 11);
  io::safetensors_writer writer(path);
  for (int i = 0; i < io::dtype_count; ++i) {
    auto const type = static_cast<io::dtype>(i);
    auto const size = static_cast<std::int64_t>(io::element_size(type));
    writer.add("x." + std::string(io::name(type)), type, {2, 24 / size}, std::as_bytes(std::span(pattern)));
    writer.add("empty." + std::string(io::name(type)), type, {3, 0}, {});
    writer.add("scalar." + std::string(io::name(type)), type, {},
               std::as_bytes(std::span(pattern)).first(io::element_size(type)));
  }
  writer.metadata("a", "first").metadata("quote \"\\\n\u00e9", "\x01 value").metadata("a", "second").save();

  io::safetensors_file const file(path);
  CHECK(file.size() == 3 * io::dtype_count);
  for (int i = 0; i < io::dtype_count; ++i) {
    auto const type = static_cast<io::dtype>(i);
    auto const size = static_cast<std::int64_t>(io::element_size(type));
    auto const& tensor = file.at("x." + std::string(io::name(type)));
    CHECK(tensor.dtype == type);
    CHECK(tensor.shape == std::vector<std::int64_t>{2, 24 / size});
    CHECK(std::memcmp(tensor.bytes.data(), pattern.data(), pattern.size()) == 0);
    io::visit_dtype(type, [&]<class Element>(std::type_identity<Element>) {
      CHECK(tensor.as<Element>().size() == 48 / sizeof(Element));  // aligned, whatever stands before it
      CHECK(std::memcmp(tensor.copy<Element>().data(), pattern.data(), pattern.size()) == 0);
    });
    CHECK(file.at("empty." + std::string(io::name(type))).size() == 0);
    CHECK(file.at("scalar." + std::string(io::name(type))).rank() == 0);
    CHECK(file.at("scalar." + std::string(io::name(type))).size() == 1);
  }
  CHECK(file.metadata("a") == "second");
  CHECK(file.metadata("quote \"\\\n\u00e9") == "\x01 value");
  CHECK_FALSE(file.metadata("b"));
  CHECK(file.metadata().size() == 2);
}

TEST_CASE("safetensors: the C++ type of the elements names the dtype") {
  test::temporary_folder const folder;
  auto const path = folder / "typed.safetensors";
  std::vector<float> const floats{1.5f, -2.0f};
  std::array<fkv::half, 1> const halves{fkv::half{0x3E00}};
  std::vector<std::int32_t> numbers{7, 8, 9};
  io::safetensors_writer(path)
      .add("floats", {2}, floats)
      .add("halves", {1, 1}, halves)
      .add("numbers", {2}, std::span(numbers).last(2))
      .save();
  io::safetensors_file const file(path);
  CHECK(file.at("floats").copy<float>() == floats);
  CHECK(file.at("halves").to_float() == std::vector{1.5f});
  CHECK(file.at("numbers").copy<std::int32_t>() == std::vector<std::int32_t>{8, 9});
  static_assert(io::tensor_range<std::vector<float>&> && !io::tensor_range<std::vector<float>>);
  static_assert(!io::tensor_range<std::vector<bool>&>);
}

TEST_CASE("safetensors: find, at and iteration go by name") {
  test::temporary_folder const folder;
  auto const path = folder / "names.safetensors";
  std::vector<float> const one{1.0f};
  io::safetensors_writer(path).add("b", {1}, one).add("a", {1}, one).add("c", {1}, one).save();
  io::safetensors_file file(path);
  std::string names;
  for (auto const& [name, tensor] : file) names += name;
  CHECK(names == "abc");
  CHECK(file.find("b") == &file.at("b"));
  CHECK(file.find("d") == nullptr);
  CHECK(test::message_of<io::error>([&] { static_cast<void>(file.at("d")); }) ==
        path.string() + ": tensor 'd' is missing");
  CHECK(test::message_of<io::error>([&] { file.at("b").expect_shape({2}); }) ==
        path.string() + ": tensor 'b' must be [2], is [1]");
  auto const* const tensor = file.find("c");
  io::safetensors_file const moved(std::move(file));
  CHECK(moved.find("c") == tensor);
  CHECK(tensor->as<float>()[0] == 1.0f);
  static_assert(!std::is_copy_constructible_v<io::safetensors_file>);
}

TEST_CASE("safetensors: the bytes written are those of the format, whatever the order of calls") {
  test::temporary_folder const folder;
  std::vector<float> const floats{1.0f};
  std::vector<std::uint8_t> const small{5, 6, 7};
  std::vector<double> const wide{2.0};
  io::safetensors_writer(folder / "one")
      .add("b", {3}, small)
      .add("z", {1}, floats)
      .add("a", {1}, floats)
      .add("w", {}, wide)
      .metadata("y", "2")
      .metadata("x", "1")
      .save();
  io::safetensors_writer(folder / "two")
      .metadata("x", "1")
      .add("w", {}, wide)
      .add("a", {1}, floats)
      .metadata("y", "2")
      .add("z", {1}, floats)
      .add("b", {3}, small)
      .save();
  std::string const header = R"({"__metadata__":{"x":"1","y":"2"},)" + entry("w", "F64", "[]", "[0,8]") + "," +
                             entry("a", "F32", "[1]", "[8,12]") + "," + entry("z", "F32", "[1]", "[12,16]") + "," +
                             entry("b", "U8", "[3]", "[16,19]") + "}";
  std::string const padding((8 - header.size() % 8) % 8, ' ');
  std::string const data = "\0\0\0\0\0\0\0\x40"s + "\0\0\x80\x3f"s + "\0\0\x80\x3f"s + "\x05\x06\x07";
  CHECK(test::read_file(folder / "one") == file_of(header + padding, data));
  CHECK(test::read_file(folder / "two") == file_of(header + padding, data));
  CHECK(folder.entries() == 2);
}

TEST_CASE("safetensors: the writer refuses what it could not read back") {
  test::temporary_folder const folder;
  auto const path = folder / "bad.safetensors";
  std::vector<float> const values{1, 2};
  io::safetensors_writer writer(path);
  writer.add("x", {2}, values);
  auto const said = [&](auto const& name, std::vector<std::int64_t> shape) {
    return test::message_of<io::error>([&] { writer.add(name, std::move(shape), values); });
  };
  auto const label = path.string() + ": tensor ";
  CHECK(said("x", {2}) == label + "'x' has a name that is taken");
  CHECK(said("__metadata__", {2}) == label + "'__metadata__' has a name that is taken");
  CHECK(said("y", {3}) == label + "'y' [3] of F32 does not fit 8 bytes");
  CHECK(said("y", {-1, -2}) == label + "'y' [*, *] of F32 does not fit 8 bytes");
  CHECK(said("y", {1LL << 62, 4}) == label + "'y' [4611686018427387904, 4] of F32 does not fit 8 bytes");
  std::vector<std::int64_t> many(65, 1);
  many[0] = 2;
  CHECK(said("y", many).ends_with("does not fit 8 bytes"));
  CHECK(writer.tensors().size() == 1);
  auto const no_text = path.string() + ": a name or a metadata value is not valid UTF-8";
  CHECK(test::message_of<io::error>([&] { io::safetensors_writer(path).metadata("k", "\xff").save(); }) == no_text);
  CHECK(test::message_of<io::error>([&] { io::safetensors_writer(path).add("\xc3", {2}, values).save(); }) == no_text);
  CHECK(folder.entries() == 0);
  CHECK(test::message_of<io::error>([&] { io::safetensors_writer(folder / "none/x").save(); }) ==
        (folder / "none/x").string() + ": cannot write: No such file or directory");
}

TEST_CASE("safetensors: a file of no format, too short or with a wrong header length is refused") {
  test::temporary_folder const folder;
  auto const path = folder / "bad.safetensors";
  test::write_file(path, "no");
  CHECK(test::message_of<io::error>([&] { io::safetensors_file file(path); }) ==
        path.string() + ": too short for a safetensors file");
  CHECK(verdict("") == "too short for a safetensors file");
  CHECK(verdict("1234567") == "too short for a safetensors file");
  CHECK(verdict(with_length(0, "")) == "header does not begin with '{'");
  CHECK(verdict(with_length(0, "{}")) == "header does not begin with '{'");
  CHECK(verdict(with_length(3, "{}")) == "header of 3 bytes does not fit the 2 bytes that follow");
  CHECK(verdict(with_length(1, "{}")).starts_with("header is not valid JSON in UTF-8, at its byte "));
  CHECK(verdict(with_length(100'000'000, "{}")) == "header of 100000000 bytes does not fit the 2 bytes that follow");
  CHECK(verdict(with_length(100'000'001, "{}")) == "header of 100000001 bytes is over the limit of 100000000");
  CHECK(verdict(with_length(~0ULL, "{}")) == "header of 18446744073709551615 bytes is over the limit of 100000000");
  CHECK(verdict(with_length(~0ULL - 7, "{}")) == "header of 18446744073709551608 bytes is over the limit of 100000000");
}

TEST_CASE("safetensors: a header that is not the JSON of the format is refused") {
  auto const json = "header is not valid JSON in UTF-8, at its byte ";
  struct {
    std::string header, said;
  } const cases[] = {
      {" {}", "header does not begin with '{'"},
      {"\xef\xbb\xbf{}", "header does not begin with '{'"},
      {"[]", "header does not begin with '{'"},
      {"{}\0"s, "header holds a zero byte"},
      {"{}\0{}"s, "header holds a zero byte"},
      {"{", json},
      {"{}{}", json},
      {"{} x", json},
      {"{/**/}", json},
      {"{'a':1}", json},
      {R"({"a")", json},
      {R"({"a":})", json},
      {"{\"\xff\":{}}", json},
      {"{\"\xc0\xaf\":{}}", json},
      {"{\"\xed\xa0\x80\":{}}", json},
      {R"({"\ud800":{}})", json},
      {"{\"a\nb\":{}}", json},
      {"{" + entry("a", "U8", "[1]", "[0,1]") + ",}", json},
      {R"({"a":1})", "tensor 'a' must be an object, is a number"},
      {R"({"a":-1})", "tensor 'a' must be an object, is a number"},
      {R"({"a":1.5})", "tensor 'a' must be an object, is a number"},
      {R"({"a":1e999})", json},
      {R"({"a":null})", "tensor 'a' must be an object, is null"},
      {R"({"a":true})", "tensor 'a' must be an object, is a boolean"},
      {R"({"a":"b"})", "tensor 'a' must be an object, is a string"},
      {R"({"a":[]})", "tensor 'a' must be an object, is an array"},
      {R"({"a\nb":null})", "tensor 'a?b' must be an object, is null"},
      {R"({"a":{}})", "tensor 'a' must have the fields dtype, shape and data_offsets"},
      {R"({"a":{"dtype":"U8","shape":[]}})", "tensor 'a' must have the fields dtype, shape and data_offsets"},
      {R"({"a":{"dtype":"U8","dtype":"U8"}})", "tensor 'a' field 'dtype' stands twice"},
      {R"({"a":{"stride":[1]}})", "tensor 'a' field 'stride' is unknown"},
      {R"({"a":{"dtype":8}})", "tensor 'a' field 'dtype' must not hold a number"},
      {R"({"a":{"dtype":["U8"]}})", "tensor 'a' field 'dtype' must not hold an array"},
      {R"({"a":{"dtype":{}}})", "tensor 'a' field 'dtype' must not hold an object"},
      {R"({"a":{"dtype":"F31"}})", "tensor 'a' has the unknown dtype 'F31'"},
      {R"({"a":{"dtype":"f32"}})", "tensor 'a' has the unknown dtype 'f32'"},
      {R"({"a":{"dtype":""}})", "tensor 'a' has the unknown dtype ''"},
      {R"({"a":{"shape":3}})", "tensor 'a' field 'shape' must not hold a number"},
      {R"({"a":{"shape":"3"}})", "tensor 'a' field 'shape' must not hold a string"},
      {R"({"a":{"shape":null}})", "tensor 'a' field 'shape' must not hold null"},
      {R"({"a":{"shape":["3"]}})", "tensor 'a' field 'shape' must not hold a string"},
      {R"({"a":{"shape":[[3]]}})", "tensor 'a' field 'shape' must not hold an array"},
      {R"({"a":{"shape":[{}]}})", "tensor 'a' field 'shape' must not hold an object"},
      {R"({"a":{"shape":[true]}})", "tensor 'a' field 'shape' must not hold a boolean"},
      {R"({"a":{"shape":[-1]}})", "tensor 'a' field 'shape' must not be negative"},
      {R"({"a":{"shape":[1.0]}})", "tensor 'a' field 'shape' must be whole numbers below 2^64"},
      {R"({"a":{"shape":[9223372036854775808]}})", "tensor 'a' field 'shape' is too large"},
      {R"({"a":{"shape":[18446744073709551616]}})", "tensor 'a' field 'shape' must be whole numbers below 2^64"},
      {R"({"a":{"data_offsets":[-1,0]}})", "tensor 'a' field 'data_offsets' must not be negative"},
      {R"({"a":{"data_offsets":[0,1,2]}})", "tensor 'a' field 'data_offsets' must be two numbers"},
      {"{" + entry("a", "U8", "[0]", "[0]") + "}", "tensor 'a' field 'data_offsets' must be two numbers"},
      {"{" + entry("a", "U8", "[0]", "[]") + "}", "tensor 'a' field 'data_offsets' must be two numbers"},
      {"{" + entry("a", "U8", "[0]", "[0,0]") + "," + entry("a", "U8", "[0]", "[0,0]") + "}",
       "tensor 'a' stands twice in the header"},
      {R"({"__metadata__":{},"__metadata__":{}})", "__metadata__ stands twice in the header"},
      {R"({"__metadata__":[]})", "__metadata__ must be an object, is an array"},
      {R"({"__metadata__":null})", "__metadata__ must be an object, is null"},
      {R"({"__metadata__":{"k":1}})", "__metadata__ field 'k' must be a string, is a number"},
      {R"({"__metadata__":{"k":{}}})", "__metadata__ field 'k' must be a string, is an object"},
      {R"({"__metadata__":{"k":["v"]}})", "__metadata__ field 'k' must be a string, is an array"},
      {R"({"__metadata__":{"k":"v","k":"v"}})", "__metadata__ field 'k' stands twice"},
  };
  for (auto const& bad : cases) {
    CAPTURE(bad.header);
    auto const answer = verdict(file_of(bad.header));
    if (bad.said == json) {
      CHECK(answer.starts_with(json));
    } else {
      CHECK(answer == bad.said);
    }
  }
}

TEST_CASE("safetensors: shapes and offsets that do not fit are refused") {
  auto const extents = [](int count) {
    std::string ones = "[1";
    while (--count > 0) ones += ",1";
    return ones + "]";
  };
  CHECK(verdict(file_of("{" + entry("a", "U8", extents(64), "[0,1]") + "}", "x")) == "opens");
  struct {
    std::string header;
    std::size_t data;
    std::string said;
  } const cases[] = {
      {entry("a", "F32", "[2]", "[0,4]"), 4, "tensor 'a' [2] of F32 needs 8 bytes, its data_offsets span 4"},
      {entry("a", "F32", "[]", "[0,8]"), 8, "tensor 'a' [] of F32 needs 4 bytes, its data_offsets span 8"},
      {entry("a", "F32", "[0]", "[0,4]"), 4, "tensor 'a' [0] of F32 needs 0 bytes, its data_offsets span 4"},
      {entry("a", "U8", "[4]", "[4,0]"), 4, "tensor 'a' ends before it begins"},
      {entry("a", "U8", "[4]", "[0,4]"), 3, "tensor 'a' ends at byte 4 of 3 bytes of data: truncated file?"},
      {entry("a", "U8", "[9223372036854775807]", "[0,9223372036854775807]"), 3,
       "tensor 'a' ends at byte 9223372036854775807 of 3 bytes of data: truncated file?"},
      {entry("a", "U8", "[0]", "[18446744073709551615,18446744073709551615]"), 0,
       "tensor 'a' ends at byte 18446744073709551615 of 0 bytes of data: truncated file?"},
      {entry("a", "U8", "[4]", "[0,4]"), 5, "bytes 4 to 5 of the data belong to no tensor"},
      {entry("a", "U8", "[4]", "[1,5]"), 5, "bytes 0 to 1 of the data belong to no tensor"},
      {entry("a", "U8", "[0]", "[1,1]"), 1, "bytes 0 to 1 of the data belong to no tensor"},
      {entry("a", "U8", "[2]", "[0,2]") + "," + entry("b", "U8", "[2]", "[3,5]"), 5,
       "bytes 2 to 3 of the data belong to no tensor"},
      {entry("a", "U8", "[2]", "[0,2]") + "," + entry("b", "U8", "[2]", "[1,3]"), 3,
       "tensor 'b' overlaps the tensor before it"},
      {entry("b", "U8", "[3]", "[0,3]") + "," + entry("a", "U8", "[3]", "[0,3]"), 3, "overlaps the tensor before it"},
      {entry("b", "U8", "[4]", "[0,4]") + "," + entry("a", "U8", "[0]", "[2,2]"), 4,
       "tensor 'a' overlaps the tensor before it"},
      {entry("a", "F32", "[4611686018427387904]", "[0,0]"), 0,
       "tensor 'a' has a shape whose size overflows: [4611686018427387904]"},
      {entry("a", "U8", "[4294967296,4294967296]", "[0,0]"), 0,
       "tensor 'a' has a shape whose size overflows: [4294967296, 4294967296]"},
      {entry("a", "U8", "[4294967296,4294967296,0]", "[0,0]"), 0,
       "tensor 'a' has a shape whose size overflows: [4294967296, 4294967296, 0]"},
      {entry("a", "U8", extents(65), "[0,1]"), 1, "tensor 'a' field 'shape' has more than 64 extents"},
      {"", 3, "bytes 0 to 3 of the data belong to no tensor"},
  };
  for (auto const& bad : cases) {
    CAPTURE(bad.header);
    CHECK(verdict(file_of("{" + bad.header + "}", std::string(bad.data, 'x'))).ends_with(bad.said));
  }
}

TEST_CASE("safetensors: nesting of any depth is refused at once") {
  for (auto const* open : {R"({"a":)", "["}) {
    std::string deep = R"({"a":)";
    while (deep.size() < 3'000'000) deep += open;
    CHECK(verdict(file_of(deep)).starts_with("tensor 'a' "));
  }
}

TEST_CASE("safetensors: every truncation and every addition is refused") {
  int refused = 0;
  for (auto const& bytes : valid_files()) {
    for (std::size_t length = 0; length < bytes.size(); ++length, ++refused) {
      CAPTURE(length);
      CHECK(verdict(bytes.substr(0, length)) != "opens");
    }
    CHECK(verdict(bytes + ' ') != "opens");
    CHECK(verdict(bytes + std::string(9, '\0')) != "opens");
  }
  CHECK(refused > 500);
}

TEST_CASE("safetensors: mutated files open consistently or are refused with io::error") {
  std::mt19937 random(20260203);
  auto const below = [&](std::size_t end) { return std::uniform_int_distribution<std::size_t>(0, end - 1)(random); };
  auto const files = valid_files();
  constexpr std::string_view splices[] = {"{",
                                          "}",
                                          "[",
                                          "]",
                                          ",",
                                          ":",
                                          "\"",
                                          "0",
                                          "-1",
                                          "1e9",
                                          "null",
                                          "\"a\":{",
                                          "\\u00",
                                          "\xc3",
                                          " ",
                                          "9223372036854775808",
                                          "[[",
                                          "\"F32\"",
                                          "18446744073709551615",
                                          R"("dtype":"F64",)"};
  test::temporary_folder const folder;
  int opened = 0, refused = 0;
  for (int round = 0; round < 20'000; ++round) {
    std::string bytes = files[below(files.size())];
    for (std::size_t changes = 1 + below(3); changes > 0; --changes) {
      switch (below(6)) {
        case 0:
          bytes[below(bytes.size())] ^= static_cast<char>(1 << below(8));
          break;
        case 1:
          bytes[below(bytes.size())] = static_cast<char>(below(256));
          break;
        case 2:
          bytes.resize(std::max<std::size_t>(1, below(bytes.size() + 1)));
          break;
        case 3: {  // splice, with the length kept true half of the time
          if (bytes.size() < 8) break;
          auto const before = bytes.size();
          auto const splice = splices[below(std::size(splices))];
          auto const place = std::min(bytes.size(), 8 + below(bytes.size()));
          bytes.replace(place, std::min(below(4), bytes.size() - place), splice);
          if (below(2) == 0) bytes = with_length(length_of(bytes) + bytes.size() - before, bytes.substr(8));
          break;
        }
        case 4: {  // the length field alone
          std::uint64_t const lengths[] = {0, 1, bytes.size(), bytes.size() - 8, ~0ULL, 1ULL << 63, 100'000'000};
          auto const length = below(2) == 0 ? lengths[below(std::size(lengths))] : below(bytes.size() + 1);
          bytes = with_length(length, bytes.size() > 8 ? bytes.substr(8) : "");
          break;
        }
        case 5: {  // a digit of the header becomes another
          auto const place =
              bytes.find_first_of("0123456789", std::min<std::size_t>(bytes.size(), 8 + below(bytes.size())));
          if (place != bytes.npos) bytes[place] = static_cast<char>('0' + below(10));
          break;
        }
      }
    }
    CAPTURE(round);
    bool const opens = verdict(bytes) == "opens";
    ++(opens ? opened : refused);
    if (round % 20 == 0) {  // and through a mapping of a real file
      test::write_file(folder / "x", bytes);
      auto const said = test::message_of<io::error>([&] { io::safetensors_file file(folder / "x"); });
      CHECK((said == "nothing was thrown") == opens);
    }
  }
  MESSAGE("mutated files: " << opened << " opened, " << refused << " refused");
  CHECK(opened > 200);
  CHECK(refused > 10'000);
}

TEST_CASE("safetensors: a file that another program wrote opens") {
  io::safetensors_file const file(testing::vectors_folder() / "golden_figure.safetensors");
  CHECK(file.at("attention_rows").expect_shape({6, 11}).to_float()[0] == 0.7f);
  CHECK(file.at("evicted").expect_shape({3, 1, 2}).copy<std::int32_t>().size() == 6);
  CHECK(file.metadata("budget") == "3");
}
