// SPDX-License-Identifier: Apache-2.0
// What control and dataplane say to each other over dataplane.sock (SOCK_SEQPACKET: one message a packet).
//
// Native-endian POD: both ends run on one host from one build; `version` catches the rest. A message is a
// MessageHeader followed by `count` records of the type its MessageType names. Every request gets one reply
// with the same `sequence`, records in the reply as named below, `status` 0 or an errno; a failed
// request's reply carries one ErrorText. A connection that sends kSubscribe becomes an event connection: the
// dataplane then sends kLearnEvents, kPunt and kPortEvents on it and reads nothing more from it. Several
// connections may be open; the newest subscriber gets the events.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <string_view>
#include <type_traits>

#include "dataplane/counters.h"
#include "dataplane/packet.h"
#include "dataplane/vlan_table.h"
#include "dataplane/wire.h"

namespace vx::protocol {

inline constexpr std::uint32_t kVersion = 3;
inline constexpr std::size_t kMaxMessageBytes = 64 * 1024;
inline constexpr std::string_view kSocketName = "dataplane.sock";

enum class MessageType : std::uint16_t {
  //                 request record        reply record(s)
  kHello = 1,        // -                  HelloReply
  kPortAdd,          // PortConfig         PortInfo
  kPortDelete,       // PortRef            -
  kPortSet,          // PortConfig (name picks the port; VLANs, flags, storm, mtu, deliver_ifindex, own_mac change in place)   PortInfo
  kPortDump,         // - or DumpFrom      PortInfo...        (by ascending index; see DumpFrom)
  kUnderlaySet,      // UnderlayConfig     -
  kUnderlayGet,      // -                  UnderlayConfig
  kOverlaySet,       // OverlayConfig      -   (adds, or changes in place; the FDB stays unless fdb_capacity changes)
  kOverlayDelete,    // OverlayRef         -
  kOverlayDump,      // - or DumpFrom      OverlayConfig...   (by ascending index; see DumpFrom)
  kVtepSet,          // VtepConfig...      -
  kVtepDelete,       // VtepRef            -   (its FDB entries are flushed)
  kVtepDump,         // OverlayRef|VtepRef VtepConfig...      (by ascending index; a VtepRef says from which)
  kFdbPut,           // FdbRecord...       FdbPutReply
  kFdbDelete,        // FdbDelete...       FdbDeleteReply...  (one per request record, in order)
  kFdbFlush,         // FdbFlush           -   (O(1); non-static entries only)
  kFdbDump,          // FdbDumpRequest     FdbDumpReply, then FdbRecord... (count says 1 + records; see encode helpers)
  kStatsGet,         // - or DumpFrom      StatsReply, then PortStats... (by DumpFrom), then WorkerStats...
  kInject,           // InjectFrame        -   (sent out of a port; counted `generated`)
  kSubscribe,        // -                  - (status 0), then events
  kWorkersSet,       // WorkersConfig      WorkersReply  (EBUSY while there are ports: lcores stay; poll is set all the same)
  kFailOpenSet,      // FailOpenConfig     -   (at once, for all attached BPF programs and for those to come)
  kFailOpenGet,      // -                  FailOpenConfig
  // events
  kLearnEvents = 100,  // LearnEvent...
  kPunt,               // PuntFrame (one)
  kPortEvents,         // PortInfo... (a port's netdev vanished: state kLost; the dataplane already removed it)
};

struct MessageHeader {
  std::uint32_t version = kVersion;
  MessageType type{};
  std::uint16_t count = 0;      // records behind the header
  std::uint32_t sequence = 0;   // chosen by the requester
  std::int32_t status = 0;      // replies: 0 or an errno
};
static_assert(sizeof(MessageHeader) == 16);

using Name = std::array<char, 32>;      // NUL-padded; IFNAMSIZ is 16, vdev names may be longer
using Text = std::array<char, 256>;     // NUL-padded

struct ErrorText {
  Text text{};  // one line: what, where, what to do
};

struct HelloReply {
  std::uint64_t instance = 0;        // random per start: a change tells control that the dataplane restarted
  std::uint64_t uptime_s = 0;
  std::uint32_t workers = 0;
  std::uint32_t hugepages = 0;       // 1: EAL runs on hugepages
  std::uint16_t now_s = 0;           // the clock of FdbRecord times, modulo 65536
  std::uint16_t reserved = 0;
  std::uint32_t pid = 0;
};

enum class WorkerPoll : std::uint8_t { kAdaptive = 0, kBusy };
// What the configuration wants of the workers. The dataplane's own --lcores and --poll win over it.
struct WorkersConfig {
  Text lcores{};                     // a list of CPUs as --lcores takes it; empty: as they are
  WorkerPoll poll = WorkerPoll::kAdaptive;
  std::uint8_t may_restart = 1;      // 0: EBUSY instead of starting over
  std::uint8_t reserved[6]{};
};
struct WorkersReply {
  std::uint8_t restarts = 0;         // 1: it starts over with the lcores: this connection is about to close
  std::uint8_t reserved[7]{};
  Text note{};                       // what is used instead of what was wanted, one line; empty: as wanted
};

// When the kernel has its frames back. `bypass` concerns only what stands in for a kernel bridge (`takeover` of
// PortConfig and UnderlayConfig); a dataplane starts with it on, so that nothing is taken before all is installed.
struct FailOpenConfig {
  std::uint8_t bypass = 1;           // 1: every frame goes the kernel's way, whoever beats
  std::uint8_t reserved[3]{};
  std::uint32_t stale_after_ms = 50;  // of every port: a heartbeat older than this gives the kernel the frames
};

// Dumps that may not fit one message (an overlay's VTEPs, 48 ports and more): the reply holds as many records
// as fit, from index `first` on. Ask again from the last one's index + 1 until a reply has none.
// kStatsGet's position counts ports in the order of their indices, removed ones (kRemovedPorts) last.
struct DumpFrom {
  std::uint16_t first = 0;
};

enum class PortRole : std::uint8_t { kGuest = 0, kUnderlay = 1 };
enum class PortDriver : std::uint8_t { kAfXdp = 0, kUdp, kTap, kNetdev, kVhostUser, kDpdk };
enum class PortState : std::uint8_t { kUp = 0, kDown, kLost };

// How a port of the bridge differs from the others, as `bridge link set` has them (br_flood and br_skb_isolated).
enum PortFlag : std::uint8_t {
  kIsolated = 1,           // does not talk to other isolated ports
  kNoUnicastFlood = 2,     // `flood off`: gets no unicast frames whose destination is unknown
  kNoMulticastFlood = 4,   // `mcast_flood off`
  kNoBroadcastFlood = 8,   // `bcast_flood off`
};
inline constexpr std::uint8_t kAllPortFlags = kIsolated | kNoUnicastFlood | kNoMulticastFlood | kNoBroadcastFlood;

struct PortConfig {
  Name name{};                  // the operator's name; for netdev-backed drivers the netdev's
  Text devargs{};               // kDpdk only
  OverlayIndex overlay = kNoIndex;  // guest ports
  PortRole role = PortRole::kGuest;
  PortDriver driver = PortDriver::kTap;
  std::uint16_t queues = 0;     // 0: one per worker, as far as the device has them
  std::uint16_t mtu = 0;        // tap: set on the netdev; 0: leave
  std::uint32_t storm_pps = 0;  // 0: no limit on flooded packets
  std::uint8_t learning = 1;    // 0: sources are not learned (netdev mode's uplink)
  std::uint8_t attach_xdp_take_all = 0;  // af_xdp guest ports: every frame is taken
  std::uint8_t takeover = 0;    // netdev: a port of a kernel bridge that stands by: neither its link nor its MTU is touched; FailOpenConfig
  std::uint8_t flags = 0;       // PortFlag
  std::uint32_t deliver_ifindex = 0;  // tap: what is sent into it enters that netdev's ingress as if received there; 0: no
  MacAddress own_mac{};         // takeover: the netdev's, for which the host behind the bridge answers on this port; with
                                // deliver_ifindex that netdev's; zero: none
  std::uint8_t reserved[6]{};
  VlanTable vlans;
};

struct PortInfo {
  PortConfig config;
  PortIndex index = kNoIndex;
  PortState state = PortState::kUp;
  std::uint8_t reserved = 0;
  std::uint32_t ifindex = 0;     // 0: no netdev behind it
  std::uint16_t rx_queues = 0, tx_queues = 0;
  MacAddress mac{};              // of the netdev or device
  std::uint8_t reserved2[2]{};
};

struct PortRef {
  Name name{};
};

inline constexpr std::size_t kMaxLocalAddresses = 8;
struct UnderlayConfig {
  Name port{};                   // name of the port with role kUnderlay; empty: none yet
  std::uint16_t vlan = 0;        // outer 802.1Q VID pushed and expected; 0: untagged
  std::uint16_t mtu = 0;         // outer IP packet, bytes
  std::uint8_t own_address = 0;  // vtep-address = own: the dataplane answers ARP, ND and echo for local[]
  std::uint8_t hold_port = 1;    // hold a kernel UDP socket on each (local address, port) of the overlays
  std::uint16_t local_count = 0;
  MacAddress mac{};              // source MAC of what we send
  std::uint8_t takeover = 0;     // 1: the kernel's vxlan device stands by for it (FailOpenConfig)
  std::uint8_t reserved = 0;
  std::array<IpAddress, kMaxLocalAddresses> local{};
};

enum class VtepLearning : std::uint8_t { kNo = 0, kYes, kFlood };

struct OverlayConfig {
  OverlayIndex index = kNoIndex;
  std::uint16_t udp_port = kVxlanPort;
  std::uint32_t vni = 0;
  Name name{};                    // e.g. vxlan_mainvx
  IpAddress local{};
  std::uint16_t mtu = 0;          // overlay MTU: layer-3 bytes
  std::uint8_t ttl = 64;
  std::uint8_t tos = 0;           // ECN bits are always copied from the inner packet
  std::uint8_t tos_inherit = 0;   // DSCP from the inner packet
  std::uint8_t udp_csum = 1;      // IPv4 only; IPv6 always
  std::uint8_t learning = 1;      // MACs behind VTEPs
  VtepLearning vtep_learning = VtepLearning::kNo;
  Name uplink_port{};             // netdev mode: all tunnel frames go to this port, with no lookup; else empty
  std::uint32_t fdb_capacity = 65536;
  std::uint8_t mss_clamp = 0;     // TCP MSS of SYNs is lowered to what the overlay MTU allows
  std::uint8_t tunnel_flags = 0;  // PortFlag, of the tunnel as a port of the bridge: no flooding to VTEPs...
  MacAddress own_mac{};           // takeover: the vxlan device's, as PortConfig's
  OverlayIndex home = kNoIndex;   // of a bridge with several tunnels: the overlay whose ports this one shares; it has those of
                                  // their frames that are in tunnel_vlans, and no ports of its own; kNoIndex: none
  std::uint8_t reserved[2]{};
  VlanTable tunnel_vlans;         // what the tunnel carries: bridge-vids tagged, bridge-pvid untagged
};

struct OverlayRef {
  OverlayIndex index = kNoIndex;
};

struct VtepConfig {
  OverlayIndex overlay = kNoIndex;
  VtepIndex index = kNoIndex;     // chosen by control, dense from 0
  IpAddress address{};
  std::uint8_t flood = 0;         // on the flood list
  std::uint8_t resolved = 0;      // next_hop is valid
  MacAddress next_hop{};          // destination MAC of the outer frame
  std::uint16_t mtu = 0;          // outer IP packet to this VTEP at most; 0: the underlay's
  std::uint16_t source_port_min = 49152, source_port_max = 65535;
  std::uint8_t reserved[2]{};
};

struct VtepRef {
  OverlayIndex overlay = kNoIndex;
  VtepIndex index = kNoIndex;
};

struct FdbRecord {
  std::uint64_t key = 0;          // fdb_key(vid, mac)
  OverlayIndex overlay = kNoIndex;
  std::uint16_t location = kNoIndex;  // Location::raw()
  std::uint8_t flags = 0;         // FdbValue::Flag
  std::uint8_t reserved = 0;
  std::uint16_t updated_age_s = 0;  // seconds since, saturating; in puts too: how old the entry already is
  std::uint16_t used_age_s = 0;
  std::uint8_t reserved2[6]{};
};
static_assert(sizeof(FdbRecord) == 24);

struct FdbPutReply {
  std::uint32_t added = 0, replaced = 0;
  std::uint32_t full = 0;     // refused: the table holds fdb_capacity entries
  std::uint32_t refused = 0;  // skipped: no such overlay, port or VTEP (any more), or a key that cannot be
};

struct FdbDelete {
  std::uint64_t key = 0;
  OverlayIndex overlay = kNoIndex;
  std::uint8_t only_if_idle = 0;   // 1: only when not updated within idle_s
  std::uint8_t reserved = 0;
  std::uint16_t idle_s = 0;
  std::uint8_t reserved2[2]{};
};
struct FdbDeleteReply {
  std::uint8_t result = 0;         // FdbResult: kRemoved, kNotFound or kRefreshed
};

struct FdbFlush {
  OverlayIndex overlay = kNoIndex;
  std::uint16_t location = kNoIndex;  // Location::raw(); kNoIndex: everything
};

struct FdbDumpRequest {
  OverlayIndex overlay = kNoIndex;
  std::uint16_t idle_s = 0;        // only entries not updated for at least this long; 0: all
  std::uint32_t reserved = 0;
  std::uint64_t cursor = 0;        // 0 to begin
};
struct FdbDumpReply {
  std::uint64_t cursor = 0;        // where to go on; 0: done
  std::uint32_t records = 0;
  std::uint32_t reserved = 0;
};

inline constexpr std::size_t kMaxXdpExits = 24, kMaxTakeExits = 8;
struct StatsReply {
  std::array<std::uint64_t, kDropReasonCount> drops{};
  Totals totals{};
  std::uint64_t learn_events = 0, learn_events_lost = 0, punts_lost = 0;
  std::uint64_t too_big_told = 0, too_big_limited = 0;  // counters.h
  std::uint64_t fragments_received = 0, fragments_reassembled = 0, fragments_lost = 0;  // Port::Fragments, of all ports
  std::uint32_t ports = 0;         // PortStats that follow
  std::uint32_t workers = 0;       // WorkerStats that follow them
  std::uint32_t xdp_exits = 0;     // valid entries of xdp[], in the order of ebpf/shared.h
  std::uint32_t complete = 1;      // 0: a worker did not answer in time; its figures are missing
  std::array<std::uint64_t, kMaxXdpExits> xdp{};
  std::uint32_t take_exits = 0;    // valid entries of take[], in the order of enum vxp_take_exit
  std::uint32_t reserved = 0;
  std::array<std::uint64_t, kMaxTakeExits> take{};  // of the programs on netdev ports
};
// The name under which kStatsGet lists what removed ports had counted (only when there is something), so that
// the sums over its ports are the totals.
inline constexpr std::string_view kRemovedPorts = "(removed)";
struct PortStats {
  Name name{};
  PortCounters counters{};
  std::uint64_t rx_missed = 0, tx_errors = 0;
};
struct WorkerStats {
  std::uint32_t lcore = 0;
  std::uint32_t reserved = 0;
  std::uint64_t polls = 0, busy_polls = 0, packets = 0;
};

inline constexpr std::size_t kMaxFrameBytes = 2048;
struct InjectFrame {
  Name port{};
  std::uint32_t length = 0;
  std::uint32_t reserved = 0;
  std::array<std::uint8_t, kMaxFrameBytes> bytes{};  // underlay: without the outer VLAN tag, which is pushed
};

enum class LearnKind : std::uint8_t {
  kMac = 1,          // source MAC at `location`: new, or moved from where the FDB has it
  kVtep = 2,         // an unknown VTEP `address` sent a valid frame (vtep-learning yes | flood)
  kViolation = 3,    // a static or sticky MAC seen at `location` (the frame was dropped)
};
struct LearnEvent {
  std::uint64_t key = 0;            // kMac: fdb_key(vid, mac)
  OverlayIndex overlay = kNoIndex;
  std::uint16_t location = kNoIndex;  // Location::raw()
  LearnKind kind = LearnKind::kMac;
  std::uint8_t reserved[3]{};
  IpAddress address{};              // kVtep; kMac behind a VTEP not yet known: that VTEP, location = kNoIndex
};
static_assert(sizeof(LearnEvent) == 32);

// An underlay frame for control (own address mode: ARP replies and gratuitous ARP, ND advertisements).
// The outer VLAN tag has been removed.
struct PuntFrame {
  Name port{};
  std::uint32_t length = 0;
  std::uint32_t reserved = 0;
  std::array<std::uint8_t, kMaxFrameBytes> bytes{};
};

// ---- encoding: records are copied, never overlaid on a receive buffer of unknown alignment ----

template <typename Record>
inline constexpr bool is_record_v = std::is_trivially_copyable_v<Record> && std::is_standard_layout_v<Record>;

// Reads record `index` of type Record at `offset` bytes behind the header; empty if the message is too short.
template <typename Record>
[[nodiscard]] std::optional<Record> read_record(std::span<const std::byte> message, std::size_t offset,
                                                std::size_t index = 0) noexcept {
  static_assert(is_record_v<Record>);
  const std::size_t begin = sizeof(MessageHeader) + offset + index * sizeof(Record);
  if (message.size() < begin || message.size() - begin < sizeof(Record)) return std::nullopt;
  Record record;
  std::memcpy(static_cast<void*>(&record), message.data() + begin, sizeof record);
  return record;
}

// The header, or empty when shorter than one, of another version, or larger than kMaxMessageBytes.
[[nodiscard]] inline std::optional<MessageHeader> read_header(std::span<const std::byte> message) noexcept {
  MessageHeader header;
  if (message.size() < sizeof header || message.size() > kMaxMessageBytes) return std::nullopt;
  std::memcpy(&header, message.data(), sizeof header);
  if (header.version != kVersion) return std::nullopt;
  return header;
}

template <std::size_t N>
[[nodiscard]] inline std::string_view text_of(const std::array<char, N>& field) noexcept {
  return {field.data(), strnlen(field.data(), N)};
}
// Copies as much as fits, NUL-terminated; false if `text` was cut.
template <std::size_t N>
inline bool set_text(std::array<char, N>& field, std::string_view text) noexcept {
  field.fill('\0');
  const std::size_t n = text.size() < N ? text.size() : N - 1;
  std::memcpy(field.data(), text.data(), n);
  return n == text.size();
}

}  // namespace vx::protocol
