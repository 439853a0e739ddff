// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstddef>
#include <filesystem>
#include <foresightkv/io/error.hpp>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

namespace foresightkv::inline v0::io {

namespace detail {

/// `path` as it stands at the front of every message.
[[nodiscard]] inline std::string label(std::filesystem::path const& path) { return printable(path.string(), 4096); }

[[noreturn]] inline void fail_system(std::filesystem::path const& path, char const* what, int number) {
  throw error(label(path) + ": " + what + ": " + std::generic_category().message(number));
}

/// Owner of a POSIX file descriptor.
class descriptor {
 public:
  explicit descriptor(int number) : number_(number) {}
  descriptor(descriptor&& other) noexcept : number_(std::exchange(other.number_, -1)) {}
  descriptor& operator=(descriptor&& other) noexcept {
    std::swap(number_, other.number_);
    return *this;
  }
  ~descriptor() { close(); }

  [[nodiscard]] int get() const { return number_; }
  [[nodiscard]] bool open() const { return number_ >= 0; }
  int close() { return open() ? ::close(std::exchange(number_, -1)) : 0; }

 private:
  int number_;
};

struct unmap {
  std::size_t size = 0;
  void operator()(std::byte* data) const { ::munmap(data, size); }
};

}  // namespace detail

/// A file mapped into memory, read only. As with every mapping, a file that another process shortens
/// meanwhile raises SIGBUS; files written by `output_file` are replaced, never shortened.
class mapped_file {
 public:
  /// Throws if the path cannot be opened or is no regular file.
  explicit mapped_file(std::filesystem::path const& path) {
    // O_NONBLOCK: a named pipe is refused below instead of waiting for its writer.
    detail::descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
    if (!file.open()) detail::fail_system(path, "cannot open", errno);
    struct stat facts {};
    if (::fstat(file.get(), &facts) != 0) detail::fail_system(path, "cannot read its size", errno);
    if (!S_ISREG(facts.st_mode)) throw error(detail::label(path) + ": is not a regular file");
    auto const size = static_cast<std::size_t>(facts.st_size);
    if (size == 0) return;  // mmap refuses empty mappings
    void* const data = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file.get(), 0);
    if (data == MAP_FAILED) detail::fail_system(path, "cannot map into memory", errno);
    data_ = {static_cast<std::byte*>(data), detail::unmap{size}};
  }

  [[nodiscard]] std::span<std::byte const> bytes() const { return {data_.get(), data_ ? data_.get_deleter().size : 0}; }

 private:
  std::unique_ptr<std::byte, detail::unmap> data_;
};

/// A file that appears whole or not at all: bytes go to a temporary name in the same folder, `commit` flushes
/// them to the disk and renames. Without `commit` the destructor removes the temporary file.
class output_file {
 public:
  explicit output_file(std::filesystem::path target) : target_(std::move(target)), file_(-1) {
    for (int attempt = 0; attempt < 100 && !file_.open(); ++attempt) {
      temporary_ = target_;
      temporary_ += ".tmp" + std::to_string(::getpid()) + "-" + std::to_string(attempt);
      file_ = detail::descriptor(::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666));
      if (!file_.open() && errno != EEXIST) break;
    }
    if (!file_.open()) {
      temporary_.clear();
      detail::fail_system(target_, "cannot write", errno);
    }
  }
  output_file(output_file const&) = delete;
  output_file& operator=(output_file const&) = delete;
  ~output_file() {
    if (!temporary_.empty()) ::unlink(temporary_.c_str());
  }

  void write(std::span<std::byte const> bytes) {
    constexpr std::size_t largest_write = std::size_t{1} << 30;  // Linux writes at most 2 GiB in one call
    while (!bytes.empty()) {
      ssize_t const written = ::write(file_.get(), bytes.data(), std::min(bytes.size(), largest_write));
      if (written < 0 && errno == EINTR) continue;
      if (written < 0) detail::fail_system(target_, "cannot write", errno);
      bytes = bytes.subspan(static_cast<std::size_t>(written));
    }
  }
  void write(std::string_view text) { write(std::as_bytes(std::span(text))); }

  void commit() {
    if (::fsync(file_.get()) != 0) detail::fail_system(target_, "cannot write", errno);
    if (file_.close() != 0) detail::fail_system(target_, "cannot write", errno);
    if (::rename(temporary_.c_str(), target_.c_str()) != 0) {
      detail::fail_system(target_, "cannot replace", errno);
    }
    temporary_.clear();
    // The rename itself reaches the disk with the folder. Some file systems cannot flush folders: not an
    // error.
    auto const parent = target_.has_parent_path() ? target_.parent_path() : std::filesystem::path(".");
    detail::descriptor folder(::open(parent.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (folder.open()) ::fsync(folder.get());
  }

 private:
  std::filesystem::path target_, temporary_;
  detail::descriptor file_;
};

/// Removes the temporary files beside `target` that processes left there which were killed before `commit`,
/// and are gone. For the start of a program: whatever has the number of this process counts as left by an
/// earlier one.
inline void remove_abandoned(std::filesystem::path const& target) {
  auto const front = target.filename().string() + ".tmp";
  auto const abandoned = [&](std::string_view name) {
    if (!name.starts_with(front)) return false;
    name.remove_prefix(front.size());
    pid_t process = 0;
    auto const [end, problem] = std::from_chars(name.data(), name.data() + name.size(), process);
    if (problem != std::errc() || process <= 0 ||
        !name.substr(static_cast<std::size_t>(end - name.data())).starts_with('-'))
      return false;
    return process == ::getpid() || (::kill(process, 0) != 0 && errno == ESRCH);
  };
  auto const parent = target.has_parent_path() ? target.parent_path() : std::filesystem::path(".");
  std::error_code unreadable;  // then there is nothing to write either, and writing says so
  for (auto const& entry : std::filesystem::directory_iterator(parent, unreadable))
    if (abandoned(entry.path().filename().string())) ::unlink(entry.path().c_str());
}

}  // namespace foresightkv::inline v0::io
