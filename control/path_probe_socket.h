// SPDX-License-Identifier: Apache-2.0
// Echo requests from one of the kernel's own addresses: how a VTEP is asked that does not know our probes. DF is set, and what
// the kernel believes of the path does not count (IP_PMTUDISC_PROBE): a path that has recovered is seen. One thread.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "control/path_probe_wire.h"

namespace vx::control {

class EchoSocket {
 public:
  // A raw socket, else a ping socket, bound to `local`. Throws std::system_error; EADDRNOTAVAIL: the kernel does not have it.
  explicit EchoSocket(const IpAddress& local);
  ~EchoSocket();
  EchoSocket(const EchoSocket&) = delete;
  EchoSocket& operator=(const EchoSocket&) = delete;

  [[nodiscard]] int fd() const noexcept { return fd_; }  // readable: receive()
  // kFailed: the kernel no longer has the address: a new socket is needed. What was lost on its way out
  // (a full queue: ENOBUFS) counts as sent. `message`: of echo_message().
  [[nodiscard]] ProbeSent send(const IpAddress& remote, std::span<const std::uint8_t> message) noexcept;
  // The answers that wait; not more than a few hundred at once.
  [[nodiscard]] std::vector<ProbeId> receive();

 private:
  bool is_v6_ = false, is_raw_ = true;
  int fd_ = -1;
};

}  // namespace vx::control
