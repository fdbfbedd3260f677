// SPDX-License-Identifier: Apache-2.0
// Makes the ports behind port.h. The only header of the back ends that the rest of the dataplane includes.
// All functions: management thread, after EAL is up. They throw std::system_error or std::runtime_error
// with one line that says what, on which port, and what to do.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "dataplane/port.h"
#include "dataplane/protocol.h"
#include "ebpf/shared.h"

namespace vx {

struct PortContext {
  BufferPool* pool = nullptr;      // the pool made by make_mbuf_pool
  std::uint16_t workers = 1;       // queues wanted when PortConfig::queues is 0
  std::string name_prefix;         // unique per instance; for vdev names
  std::string bpf_directory;       // where vxplane_xdp.bpf.o and the others are
  bool uses_tcx = true;            // where the kernel has it; tests have it otherwise
};

// The mbuf pool all ports share. `buffers`: how many; data room kHeadroomBytes + 2048 (and what AF_XDP needs).
[[nodiscard]] std::unique_ptr<BufferPool> make_mbuf_pool(const std::string& name, unsigned buffers);

// Who has a port's frames, us or the kernel: what its BPF programs ask for each one, besides the heartbeat.
struct FailOpenRule {
  bool bypass = false;  // the kernel, whoever beats
  std::uint32_t stale_after_ms = 50;
  friend bool operator==(const FailOpenRule&, const FailOpenRule&) = default;
};
class FailOpenSwitch {
 public:
  virtual ~FailOpenSwitch() = default;
  // From the next frame on. Throws std::system_error.
  virtual void set_rule(const FailOpenRule& rule) = 0;
};

// What the XDP program on an af_xdp port is told and tells. A port without one has none (port_steering == null).
class XdpSteering : public FailOpenSwitch {
 public:
  struct Target {
    bool own_address = false;
    std::uint16_t vlan = 0;
    std::vector<IpAddress> locals;
    std::vector<std::uint16_t> udp_ports;
    std::vector<std::uint32_t> vnis;
  };
  // Replaces what is steered, without a gap for what stays: maps are filled first, stale keys removed after.
  virtual void steer(const Target& target) = 0;
  // Everything passes to the kernel (a clean stop, or no overlay).
  virtual void off() = 0;
  [[nodiscard]] virtual std::array<std::uint64_t, VXP_EXIT_COUNT> exits() const = 0;
  // The mmapped heartbeat slot of an RX queue; the polling worker stores CLOCK_MONOTONIC ns there.
  [[nodiscard]] virtual volatile vxp_beat* heartbeat(std::uint16_t queue) noexcept = 0;
};

// The BPF programs by which a netdev port takes its frames.
class TakePrograms : public FailOpenSwitch {
 public:
  [[nodiscard]] virtual std::array<std::uint64_t, VXP_TAKE_COUNT> exits() const = 0;
  // False: somebody detached the program that keeps taken frames from the kernel, which has all since then; where a
  // bridge stands by nothing is taken.
  [[nodiscard]] virtual bool is_followed() const noexcept = 0;
  virtual void follow_again() = 0;  // attaches it anew. Throws std::runtime_error or std::system_error
};

// The BPF program that hands to another netdev what is sent into a tap.
class DeliverProgram {
 public:
  virtual ~DeliverProgram() = default;
  virtual void deliver_to(std::uint32_t ifindex) = 0;  // throws std::system_error
};

struct MadePort {
  std::shared_ptr<Port> port;
  std::shared_ptr<XdpSteering> steering;  // af_xdp only; lives as long as the port
  std::shared_ptr<TakePrograms> take;     // netdev only; with takeover they start with bypass on
  std::shared_ptr<DeliverProgram> deliver;  // tap with deliver_ifindex only
  // netdev driver: heartbeats that `take` looks at (worker polling queue q stores there), by queue.
  std::vector<volatile vxp_beat*> heartbeats;
  std::uint32_t ifindex = 0;              // 0: no netdev
  MacAddress mac{};
};
[[nodiscard]] MadePort make_port(const protocol::PortConfig& config, const PortContext& context);

// The kernel UDP socket on a VTEP address and port (design section 3, Fragments): receives whole datagrams that
// XDP passed (reassembled fragments), or with driver=udp all of them; hands them in with rebuilt outer headers; keeps
// the host from answering with port-unreachable. `outer_vlan` and `our_mac` are what the rebuilt header carries. Returns
// null with `reason` set when the port is held by somebody else (a kernel vxlan device): that one keeps it.
struct HeldSocketOptions {
  std::uint16_t queues = 1;    // sockets that share the port by flow, one a queue
  bool takes_bundles = false;  // UDP_GRO: rx() may hand in bundles (unbundle.h)
};
[[nodiscard]] std::shared_ptr<Port> make_held_socket(const IpAddress& local, std::uint16_t udp_port, std::uint16_t outer_vlan,
                                                     const MacAddress& our_mac, BufferPool& pool, std::string& reason,
                                                     const HeldSocketOptions& options = {});

}  // namespace vx
