// SPDX-License-Identifier: Apache-2.0
// `vxplane-bench server`: serves one client after the other. It sends UDP to a client's address only after a packet with the
// client's token came from there, never faster or longer than its own limits, and probes and echoes never more than it is sent.
#pragma once

#include <memory>
#include <string>

#include "bench/link_control.h"
#include "bench/link_listener.h"
#include "bench/link_tcp.h"
#include "bench/link_udp.h"

namespace vx::bench {

struct ServerOptions {
  std::string bind;  // empty: all addresses
  std::uint16_t port = kDefaultPort;
  Limits limits;
  bool is_once = false;
};

// Until SIGTERM or SIGINT, or with is_once until the first client is gone. 0; 1 when it cannot listen or (once) the run broke.
int run_server(const ServerOptions& options);

// One client, from its welcome to its end. `stop`: a task that throws when the server is to end.
class ServerSession {
 public:
  ServerSession(Listener::Client client, Listener& listener, Task& stop, const Limits& limits);
  // Until the client says bye; throws LinkError when it does anything else that ends it.
  void run();

 private:
  static constexpr unsigned kMaxProbes = 400, kMaxPhases = 64;
  void packet(const PacketHeader& header, unsigned bytes, std::uint64_t now_ns);
  void probe(const Probe& probe);
  void start(const Flow& flow);
  void receive_udp(const Flow& flow);
  void send_udp(const Flow& flow);
  void tcp(const Flow& flow);
  // The client's next request, while `others` go on; nothing when `until` comes before.
  std::optional<Request> next(TimePoint until);
  Tasks with(std::initializer_list<Task*> others);

  Listener& listener_;
  Task& stop_;
  Limits limits_;
  Address local_, client_;
  Token token_;
  ControlChannel control_;
  UdpEndpoint udp_;
  FileDescriptor data_;
  std::unique_ptr<SequenceAccount> account_;
  std::uint8_t phase_ = 0;
  unsigned probes_ = 0, arrivals_ = 0, phases_ = 0;
  bool was_opened_ = false;
  TimePoint end_;
};

}  // namespace vx::bench
