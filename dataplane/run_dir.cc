// SPDX-License-Identifier: Apache-2.0
#include "dataplane/run_dir.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <array>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <filesystem>
#include <stdexcept>
#include <system_error>

#include "dataplane/protocol.h"

namespace vx {
namespace {

[[noreturn]] void fail(const std::string& what) {
  throw std::system_error(errno, std::generic_category(), what);
}

std::string absolute_path(const std::string& path) {
  std::error_code error;
  std::filesystem::create_directories(path, error);
  if (error)
    throw std::runtime_error(
        fmt::format("cannot make run directory {}: {}", path, error.message()));
  const auto canonical = std::filesystem::canonical(path, error);
  if (error || !std::filesystem::is_directory(canonical))
    throw std::runtime_error(fmt::format("run directory {} is not a directory", path));
  return canonical.string();
}

bool same_file(int fd, const std::string& path) {
  struct stat open_file {
  }, named{};
  return fstat(fd, &open_file) == 0 && stat(path.c_str(), &named) == 0 &&
         open_file.st_ino == named.st_ino && open_file.st_dev == named.st_dev;
}

std::string owner_of(int fd) {
  std::array<char, 16> text{};
  const auto n = pread(fd, text.data(), text.size() - 1, 0);
  return n > 0
             ? fmt::format(" (pid {})", std::string_view(text.data(), static_cast<std::size_t>(n)))
             : "";
}

// A clean stop unlinks the lock file, so what was opened may no longer be the file others open:
// then again.
FileDescriptor take_lock(const std::string& path, const std::string& run_dir) {
  for (;;) {
    FileDescriptor fd(open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644));
    if (!fd) fail(fmt::format("cannot open {}", path));
    if (flock(fd.get(), LOCK_EX | LOCK_NB) != 0) {
      if (errno != EWOULDBLOCK) fail(fmt::format("cannot lock {}", path));
      throw std::runtime_error(
          fmt::format("another vxplane-dataplane{} is running on {}: stop it, or give this one its "
                      "own --run-dir",
                      owner_of(fd.get()), run_dir));
    }
    if (!same_file(fd.get(), path)) continue;
    const std::string pid = std::to_string(getpid());
    if (ftruncate(fd.get(), 0) != 0 || pwrite(fd.get(), pid.data(), pid.size(), 0) < 0)
      fail(fmt::format("cannot write {}", path));
    return fd;
  }
}

}  // namespace

RunDir::RunDir(const std::string& path) {
  const mode_t mask = umask(0022);
  try {
    path_ = absolute_path(path);
  } catch (...) {
    umask(mask);
    throw;
  }
  umask(mask);
  lock_path_ = path_ + "/dataplane.lock";
  socket_path_ = path_ + "/" + std::string(protocol::kSocketName);
  if (socket_path_.size() >= sizeof(sockaddr_un::sun_path))
    throw std::runtime_error(
        fmt::format("run directory {} is too long a path for a unix socket (at most {} bytes)",
                    path_, sizeof(sockaddr_un::sun_path) - protocol::kSocketName.size() - 2));
  lock_ = take_lock(lock_path_, path_);
}

RunDir::~RunDir() {
  unlink_socket();
  unlink(lock_path_.c_str());  // still locked: nobody else can have taken it
}

FileDescriptor RunDir::listen_on_socket() {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, socket_path_.c_str(), socket_path_.size() + 1);
  FileDescriptor fd(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd) fail("socket");
  unlink(socket_path_.c_str());  // we hold the lock: a socket here is a dead instance's
  // umask, not chmod after the fact: there is no moment at which others may connect. Set-up: one
  // thread.
  const mode_t mask = umask(0177);
  const int result = bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address);
  umask(mask);
  if (result != 0) fail(fmt::format("cannot bind {}", socket_path_));
  bound_ = true;
  if (listen(fd.get(), 16) != 0) fail(fmt::format("cannot listen on {}", socket_path_));
  return fd;
}

void RunDir::unlink_socket() noexcept {
  if (bound_) unlink(socket_path_.c_str());
  bound_ = false;
}

std::string RunDir::token() const {
  struct stat directory {};
  stat(path_.c_str(), &directory);
  // FNV-1a over the path and the inode: the same path in two mount namespaces is two directories.
  std::uint64_t hash = 0xcbf29ce484222325;
  const auto mix = [&hash](std::uint8_t byte) { hash = (hash ^ byte) * 0x100000001b3; };
  for (const char c : path_) mix(static_cast<std::uint8_t>(c));
  for (unsigned shift = 0; shift < 64; shift += 8)
    mix(static_cast<std::uint8_t>(directory.st_ino >> shift));
  for (unsigned shift = 0; shift < 64; shift += 8)
    mix(static_cast<std::uint8_t>(directory.st_dev >> shift));
  return fmt::format("{:08x}", static_cast<std::uint32_t>(hash ^ hash >> 32));
}

}  // namespace vx
