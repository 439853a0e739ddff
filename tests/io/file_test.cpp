// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <foresightkv/io/file.hpp>

#include "io/temporary_folder.hpp"

namespace io = foresightkv::io;

namespace {

std::string text_of(io::mapped_file const& file) {
  auto const bytes = file.bytes();
  return {reinterpret_cast<char const*>(bytes.data()), bytes.size()};
}

std::string open_error(std::filesystem::path const& path) {
  return test::message_of<io::error>([&] { io::mapped_file file(path); });
}

/// Lets no file of this process grow over `bytes`, as a full disk would.
class file_size_limit {
 public:
  explicit file_size_limit(rlim_t bytes) {
    ::getrlimit(RLIMIT_FSIZE, &before_);
    handler_ = ::signal(SIGXFSZ, SIG_IGN);
    rlimit now = before_;
    now.rlim_cur = bytes;
    ::setrlimit(RLIMIT_FSIZE, &now);
  }
  file_size_limit(file_size_limit const&) = delete;
  file_size_limit& operator=(file_size_limit const&) = delete;
  ~file_size_limit() {
    ::setrlimit(RLIMIT_FSIZE, &before_);
    ::signal(SIGXFSZ, handler_);
  }

 private:
  rlimit before_{};
  void (*handler_)(int) = nullptr;
};

}  // namespace

TEST_CASE("mapped_file: gives the bytes of a file, empty ones included, and can be moved") {
  static_assert(!std::is_copy_constructible_v<io::mapped_file>);
  static_assert(std::is_nothrow_move_constructible_v<io::mapped_file>);
  test::temporary_folder const folder;
  test::write_file(folder / "text", "some bytes");
  test::write_file(folder / "empty", "");
  io::mapped_file file(folder / "text");
  CHECK(text_of(file) == "some bytes");
  auto const* const where = file.bytes().data();
  io::mapped_file moved(std::move(file));
  CHECK(moved.bytes().data() == where);
  CHECK(text_of(moved) == "some bytes");
  moved = io::mapped_file(folder / "empty");
  CHECK(moved.bytes().empty());
}

TEST_CASE("mapped_file: names the file and the reason") {
  test::temporary_folder const folder;
  auto const missing = folder / "missing";
  CHECK(open_error(missing) == missing.string() + ": cannot open: No such file or directory");
  CHECK(open_error(folder.path()) == folder.path().string() + ": is not a regular file");
  auto const pipe = folder / "pipe";
  REQUIRE(::mkfifo(pipe.c_str(), 0600) == 0);
  CHECK(open_error(pipe) == pipe.string() + ": is not a regular file");
  CHECK(open_error("/dev/null") == "/dev/null: is not a regular file");
}

TEST_CASE("output_file: appears whole at commit, and replaces in one step") {
  test::temporary_folder const folder;
  auto const target = folder / "out";
  {
    io::output_file file(target);
    file.write("one ");
    file.write("two");
    CHECK_FALSE(std::filesystem::exists(target));
    file.commit();
    CHECK(test::read_file(target) == "one two");
  }
  io::mapped_file const before(target);
  {
    io::output_file file(target);
    file.write("other");
    CHECK(test::read_file(target) == "one two");
    file.commit();
  }
  CHECK(test::read_file(target) == "other");
  CHECK(text_of(before) == "one two");  // who has the old file mapped keeps the old bytes
  CHECK(folder.entries() == 1);
}

TEST_CASE("output_file: without commit nothing changes and nothing is left behind") {
  test::temporary_folder const folder;
  auto const target = folder / "out";
  test::write_file(target, "before");
  { io::output_file(target).write("after"); }
  CHECK(test::read_file(target) == "before");
  CHECK(folder.entries() == 1);
}

TEST_CASE("output_file: two writers of one path do not disturb each other") {
  test::temporary_folder const folder;
  auto const target = folder / "out";
  io::output_file first(target), second(target);
  first.write("first");
  second.write("second");
  first.commit();
  CHECK(test::read_file(target) == "first");
  second.commit();
  CHECK(test::read_file(target) == "second");
  CHECK(folder.entries() == 1);
}

TEST_CASE("output_file: a path or a disk that refuses is one clear line, and the folder stays as it was") {
  test::temporary_folder const folder;
  auto const nowhere = folder / "missing/out";
  CHECK(test::message_of<io::error>([&] { io::output_file file(nowhere); }) ==
        nowhere.string() + ": cannot write: No such file or directory");

  auto const occupied = folder / "occupied";
  std::filesystem::create_directory(occupied);
  CHECK(test::message_of<io::error>([&] { io::output_file(occupied).commit(); }) ==
        occupied.string() + ": cannot replace: Is a directory");

  auto const target = folder / "out";
  test::write_file(target, "before");
  std::string const large(100'000, 'x');
  std::string const said = test::message_of<io::error>([&] {
    file_size_limit const limit(10'000);
    io::output_file file(target);
    file.write(large);
    file.commit();
  });
  CHECK(said == target.string() + ": cannot write: File too large");
  CHECK(test::read_file(target) == "before");
  CHECK(folder.entries() == 2);
}

TEST_CASE("remove_abandoned: what killed processes left goes, everything else stays") {
  test::temporary_folder const folder;
  auto const target = folder / "out";
  pid_t const killed = ::fork();
  if (killed == 0) {
    io::output_file file(target);
    file.write("half of it");
    ::kill(::getpid(), SIGKILL);
  }
  int ended = 0;
  REQUIRE(::waitpid(killed, &ended, 0) == killed);
  REQUIRE(WIFSIGNALED(ended));
  auto const left = folder / ("out.tmp" + std::to_string(killed) + "-0");
  REQUIRE(test::read_file(left) == "half of it");

  auto const own = folder / ("out.tmp" + std::to_string(::getpid()) + "-3");
  std::vector<std::string> const others{"out",
                                        "out.tmp",
                                        "out.tmp1-0",  // process 1 is always there
                                        "out.tmpx",
                                        "out.tmp-1-0",
                                        "other.tmp" + std::to_string(killed) + "-0",
                                        "out.tmp99",
                                        "out.tmp" + std::to_string(::getppid()) + "-0"};
  test::write_file(own, "");
  for (auto const& name : others) test::write_file(folder / name, "");

  io::remove_abandoned(target);
  CHECK_FALSE(std::filesystem::exists(left));
  CHECK_FALSE(std::filesystem::exists(own));
  for (auto const& name : others) CHECK_MESSAGE(std::filesystem::exists(folder / name), name);
  io::remove_abandoned(folder / "no/such/folder/out");
}
