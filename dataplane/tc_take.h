// SPDX-License-Identifier: Apache-2.0
// ebpf/take.bpf.c on a netdev: what its packet sockets take does not also enter the kernel's own path, and what they
// do not take does. To be attached before the first socket is bound and to go after the last is closed: a socket
// alone would only copy. Threads: management.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "dataplane/port_factory.h"
#include "dataplane/tc_ingress.h"

namespace vx {

class TcTake final : public TakePrograms {
 public:
  // Attaches the tc program, in place of a leftover of our own. `has_standby`: super-frames that a vnet header has no
  // word for, and frames that a worker is late for, are left to the kernel's bridge. Throws std::runtime_error or std::system_error.
  TcTake(const std::string& netdev, std::uint32_t ifindex, std::uint16_t queues, const FailOpenRule& rule, bool has_standby,
         const std::string& bpf_directory, TcIngress::Kind kind = TcIngress::Kind::kBest);
  ~TcTake() override;  // detaches; removes the clsact qdisc when it was ours
  TcTake(const TcTake&) = delete;
  TcTake& operator=(const TcTake&) = delete;

  // The program for the socket of that queue (SO_ATTACH_BPF), which takes a frame while that queue's slot is fresh; without a
  // standby later, too.
  [[nodiscard]] int filter(std::uint16_t queue) const noexcept;
  [[nodiscard]] volatile vxp_beat* heartbeat(std::uint16_t queue) noexcept;

  void set_rule(const FailOpenRule& rule) override;
  [[nodiscard]] std::array<std::uint64_t, VXP_TAKE_COUNT> exits() const override;
  [[nodiscard]] bool is_followed() const noexcept override;
  void follow_again() override;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// Attaches ebpf/deliver.bpf.c to a tap's tc ingress; what is sent into the tap then enters the ingress of netdev
// `to_ifindex`. Detached when the last reference goes. Throws as TcTake does.
[[nodiscard]] std::shared_ptr<DeliverProgram> attach_deliver(const std::string& tap, std::uint32_t ifindex,
                                                             std::uint32_t to_ifindex, const std::string& bpf_directory);

}  // namespace vx
