// SPDX-License-Identifier: Apache-2.0
// The run directory of one instance: made 0755, locked against a second live dataplane, home of
// dataplane.sock.
#pragma once

#include <string>

#include "dataplane/file_descriptor.h"

namespace vx {

class RunDir {
 public:
  // Makes the directory (and its parents) and takes the lock; throws std::runtime_error with one
  // line when another dataplane is alive on it. A lock of a dead process does not count.
  explicit RunDir(const std::string& path);
  ~RunDir();
  RunDir(const RunDir&) = delete;
  RunDir& operator=(const RunDir&) = delete;

  // Listens on dataplane.sock (0600), replacing what a dead instance left. Throws
  // std::system_error.
  [[nodiscard]] FileDescriptor listen_on_socket();
  // Also done by the destructor.
  void unlink_socket() noexcept;

  [[nodiscard]] const std::string& path() const noexcept { return path_; }  // absolute
  // Eight hexadecimal digits that differ between run directories: EAL's file prefix and vdev names
  // carry them.
  [[nodiscard]] std::string token() const;

 private:
  std::string path_, socket_path_, lock_path_;
  FileDescriptor lock_;
  bool bound_ = false;
};

}  // namespace vx
