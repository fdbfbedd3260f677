// SPDX-License-Identifier: Apache-2.0
// `vxplane-bench client`: one run against a server, phase by phase. Throws LinkError with the one line that ends it.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "bench/link_control.h"
#include "bench/link_mtu_search.h"
#include "bench/link_report.h"
#include "bench/link_tcp.h"
#include "bench/link_udp.h"

namespace vx::bench {

struct ClientOptions {
  std::string address, bind;
  std::uint16_t port = kDefaultPort;
  std::uint64_t rate = 100'000'000;
  unsigned seconds = 5;
  unsigned bytes = 0;  // of UDP's packets; 0: the path MTU of the direction
  bool has_up = true, has_down = true, has_udp = true, has_tcp = true, is_unlimited = false;
};

class Client {
 public:
  explicit Client(const ClientOptions& options);
  // `plan` hears what is about to be sent, before it is.
  Report run(const std::function<void(const Report&)>& plan);

 private:
  Json next(const char* type, TimePoint until, const char* what, const Tasks& others = {});
  void wait(TimePoint until, const Tasks& others);
  Tasks with(const Tasks& others);
  void packet(const PacketHeader& header, unsigned bytes, std::uint64_t now_ns);
  void welcome();
  void open_path();
  EchoResult idle();
  MtuResult path_mtu(bool is_down);
  MtuSearch::Verdict try_size(unsigned bytes, bool is_down);
  UdpResult udp(bool is_down, unsigned bytes);
  void udp_up(const Flow& flow, UdpResult& result);
  void udp_down(const Flow& flow, UdpResult& result);
  TcpResult tcp(bool is_down);
  void start(const Flow& flow);
  Flow make_flow(bool is_tcp, bool is_down);
  EchoResult result_of(const Echoes& echoes) const;
  [[nodiscard]] std::uint64_t tcp_rate() const { return options_.is_unlimited ? limits_.rate : options_.rate; }

  ClientOptions options_;
  ControlChannel control_;
  Address local_, server_;
  Token token_{};
  Limits limits_;
  std::unique_ptr<UdpEndpoint> udp_;
  std::unique_ptr<SequenceAccount> account_;
  Echoes* echoes_ = nullptr;
  unsigned probe_bytes_ = 0;  // the probe that is waited for
  bool probe_arrived_ = false;
  std::uint8_t phase_ = 0;
  unsigned server_interface_mtu_ = 0;
  std::chrono::milliseconds probe_wait_{1000};
};

}  // namespace vx::bench
