// SPDX-License-Identifier: Apache-2.0
// What the tests of the packet's way share: frames built layer by layer and valid by default, buffers of exactly
// their frame's size (so that AddressSanitizer sees every over-read), ports in memory, and a small host
// (one overlay, one underlay, three guest ports, two VTEPs) around a Pipeline.
#pragma once

#include <gtest/gtest.h>

#include <cstdio>
#include <deque>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "dataplane/checksum.h"
#include "dataplane/pipeline.h"

namespace vx::testkit {

using Bytes = std::vector<std::uint8_t>;

inline MacAddress mac(std::uint64_t u48) { return MacAddress::from_u48(u48); }
inline const MacAddress kBroadcast = mac(0xffffffffffff);

inline std::string hex(const Bytes& bytes) {
  std::string text;
  char two[4];
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    std::snprintf(two, sizeof two, "%02x%s", bytes[i], i % 16 == 15 ? "\n" : " ");
    text += two;
  }
  return text;
}
inline Bytes from_hex(std::string_view text) {
  Bytes bytes;
  int high = -1;
  for (const char c : text) {
    const int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
    if (digit < 0) continue;
    if (high < 0) {
      high = digit;
    } else {
      bytes.push_back(static_cast<std::uint8_t>(high << 4 | digit));
      high = -1;
    }
  }
  return bytes;
}

// Layers in wire order; ethertypes, lengths, protocol numbers and checksums are filled in by build().
class FrameBuilder {
 public:
  FrameBuilder& eth(MacAddress destination, MacAddress source) {
    Bytes b(14);
    std::copy(destination.bytes.begin(), destination.bytes.end(), b.begin());
    std::copy(source.bytes.begin(), source.bytes.end(), b.begin() + 6);
    return add(Kind::kEthernet, std::move(b));
  }
  FrameBuilder& vlan(std::uint16_t tci) { return tag(tci, Kind::kVlan); }
  FrameBuilder& service_vlan(std::uint16_t tci) { return tag(tci, Kind::kServiceVlan); }
  FrameBuilder& ipv4(const IpAddress& source, const IpAddress& destination) {
    Bytes b(20);
    auto* ip = view<Ipv4Header>(b.data());
    ip->version_ihl = 0x45;
    ip->ttl = 64;
    std::memcpy(ip->source.data(), source.v4_bytes(), 4);
    std::memcpy(ip->destination.data(), destination.v4_bytes(), 4);
    return add(Kind::kIpv4, std::move(b));
  }
  // Appends `words` words of no-operation options to the IPv4 header just added.
  FrameBuilder& ipv4_options(unsigned words) {
    Bytes& b = layers_.back().bytes;
    b.resize(b.size() + words * 4, 1);
    b[0] = static_cast<std::uint8_t>(0x40 | b.size() / 4);
    return *this;
  }
  FrameBuilder& ipv6(const IpAddress& source, const IpAddress& destination) {
    Bytes b(40);
    auto* ip = view<Ipv6Header>(b.data());
    ip->version_class_flow = Be32(0x60000000);
    ip->hop_limit = 64;
    ip->source = source.bytes;
    ip->destination = destination.bytes;
    return add(Kind::kIpv6, std::move(b));
  }
  FrameBuilder& tos(std::uint8_t value) {  // of the IP header just added
    Bytes& b = layers_.back().bytes;
    if (layers_.back().kind == Kind::kIpv4) {
      b[1] = value;
    } else {
      b[0] = static_cast<std::uint8_t>(0x60 | value >> 4);
      b[1] = static_cast<std::uint8_t>((b[1] & 0x0f) | value << 4);
    }
    return *this;
  }
  FrameBuilder& ttl(std::uint8_t value) {
    layers_.back().bytes[layers_.back().kind == Kind::kIpv4 ? 8 : 7] = value;
    return *this;
  }
  FrameBuilder& dont_fragment() { return fragment(kIpv4DontFragment); }
  FrameBuilder& fragment(std::uint16_t flags_and_offset) {
    view<Ipv4Header>(layers_.back().bytes.data())->flags_fragment = Be16(flags_and_offset);
    return *this;
  }
  FrameBuilder& udp(std::uint16_t source, std::uint16_t destination) {
    Bytes b(8);
    view<UdpHeader>(b.data())->source_port = Be16(source);
    view<UdpHeader>(b.data())->destination_port = Be16(destination);
    return add(Kind::kUdp, std::move(b));
  }
  FrameBuilder& no_checksum() {  // of the UDP header just added
    layers_.back().no_checksum = true;
    return *this;
  }
  FrameBuilder& vxlan(std::uint32_t vni, std::uint32_t flags = kVxlanFlagI, std::uint8_t reserved = 0) {
    Bytes b(8);
    view<VxlanHeader>(b.data())->flags_reserved = Be32(flags);
    view<VxlanHeader>(b.data())->vni_reserved = Be32(vni << 8 | reserved);
    return add(Kind::kVxlan, std::move(b));
  }
  FrameBuilder& icmp4(std::uint8_t type, std::size_t payload_bytes) { return icmp(Kind::kIcmp4, type, payload_bytes); }
  FrameBuilder& icmp6(std::uint8_t type, Bytes rest) {
    Bytes b{type, 0, 0, 0};
    b.insert(b.end(), rest.begin(), rest.end());
    return add(Kind::kIcmp6, std::move(b));
  }
  FrameBuilder& arp(std::uint16_t operation, MacAddress sender_mac, const IpAddress& sender, MacAddress target_mac,
                    const IpAddress& target) {
    Bytes b(28);
    auto* arp = view<ArpIpv4>(b.data());
    arp->hardware_type = Be16(1);
    arp->protocol_type = ether_type::kIpv4;
    arp->hardware_length = 6;
    arp->protocol_length = 4;
    arp->operation = Be16(operation);
    arp->sender_mac = sender_mac;
    arp->target_mac = target_mac;
    std::memcpy(arp->sender_ip.data(), sender.v4_bytes(), 4);
    std::memcpy(arp->target_ip.data(), target.v4_bytes(), 4);
    return add(Kind::kArp, std::move(b));
  }
  // `count` bytes 0, 1, 2...
  FrameBuilder& payload(std::size_t count) {
    Bytes b(count);
    for (std::size_t i = 0; i < count; ++i) b[i] = static_cast<std::uint8_t>(i);
    return add(Kind::kPayload, std::move(b));
  }
  FrameBuilder& raw(Bytes bytes) { return add(Kind::kPayload, std::move(bytes)); }
  // Payload so that the frame has `count` bytes from the layer-3 header (behind the last Ethernet/tags) on.
  FrameBuilder& layer3_bytes(std::size_t count) {
    std::size_t have = 0;
    for (const auto& layer : layers_)
      have = layer.kind == Kind::kEthernet || layer.kind == Kind::kVlan || layer.kind == Kind::kServiceVlan
                 ? 0
                 : have + layer.bytes.size();
    return payload(count - have);
  }

  [[nodiscard]] Bytes build() const {
    Bytes out;
    for (auto layer = layers_.rbegin(); layer != layers_.rend(); ++layer) {
      const Layer* inner = layer == layers_.rbegin() ? nullptr : &*(layer - 1);
      const Layer* outer = layer + 1 == layers_.rend() ? nullptr : &*(layer + 1);
      Bytes b = layer->bytes;
      finish(*layer, b, inner, outer, out);
      out.insert(out.begin(), b.begin(), b.end());
    }
    return out;
  }

 private:
  enum class Kind { kEthernet, kVlan, kServiceVlan, kIpv4, kIpv6, kUdp, kVxlan, kIcmp4, kIcmp6, kArp, kPayload };
  struct Layer {
    Kind kind;
    Bytes bytes;
    bool no_checksum = false;
  };

  FrameBuilder& add(Kind kind, Bytes bytes) {
    layers_.push_back({kind, std::move(bytes)});
    return *this;
  }
  FrameBuilder& tag(std::uint16_t tci, Kind kind) {
    Bytes b(4);
    view<VlanTag>(b.data())->tci = Be16(tci);
    return add(kind, std::move(b));
  }
  FrameBuilder& icmp(Kind kind, std::uint8_t type, std::size_t payload_bytes) {
    Bytes b(4 + payload_bytes);
    b[0] = type;
    for (std::size_t i = 4; i < b.size(); ++i) b[i] = static_cast<std::uint8_t>(i);
    return add(kind, std::move(b));
  }
  static Be16 type_of(const Layer* inner) {
    if (inner == nullptr) return Be16(0x88b5);  // IEEE 802 local experimental
    switch (inner->kind) {
      case Kind::kVlan: return ether_type::kVlan;
      case Kind::kServiceVlan: return ether_type::kServiceVlan;
      case Kind::kIpv4: return ether_type::kIpv4;
      case Kind::kIpv6: return ether_type::kIpv6;
      case Kind::kArp: return ether_type::kArp;
      default: return Be16(0x88b5);
    }
  }
  static std::uint8_t protocol_of(const Layer* inner) {
    if (inner == nullptr) return 253;  // RFC 3692: experiments
    switch (inner->kind) {
      case Kind::kUdp: return ip_protocol::kUdp;
      case Kind::kIcmp4: return ip_protocol::kIcmp;
      case Kind::kIcmp6: return ip_protocol::kIcmpv6;
      default: return 253;
    }
  }
  static std::uint32_t pseudo_sum(const Layer& ip, std::size_t length, std::uint8_t protocol) {
    const std::uint8_t tail[4] = {0, protocol, static_cast<std::uint8_t>(length >> 8), static_cast<std::uint8_t>(length)};
    const bool is_v4 = ip.kind == Kind::kIpv4;
    return checksum_partial(tail, 4, checksum_partial(ip.bytes.data() + (is_v4 ? 12 : 8), is_v4 ? 8 : 32));
  }
  static Be16 inverted(std::uint32_t sum) { return Be16::from_raw(static_cast<std::uint16_t>(~checksum_fold(sum))); }
  static void finish(const Layer& layer, Bytes& b, const Layer* inner, const Layer* outer, const Bytes& behind) {
    const std::size_t length = b.size() + behind.size();
    const auto sum_all = [&](std::uint32_t seed) {
      return checksum_partial(behind.data(), behind.size(), checksum_partial(b.data(), b.size(), seed));
    };
    switch (layer.kind) {
      case Kind::kEthernet: view<EthernetHeader>(b.data())->type = type_of(inner); break;
      case Kind::kVlan:
      case Kind::kServiceVlan: view<VlanTag>(b.data())->type = type_of(inner); break;
      case Kind::kIpv4: {
        auto* ip = view<Ipv4Header>(b.data());
        ip->total_length = Be16(static_cast<std::uint16_t>(length));
        ip->protocol = protocol_of(inner);
        ip->checksum = inverted(checksum_partial(b.data(), b.size()));
        break;
      }
      case Kind::kIpv6: {
        auto* ip = view<Ipv6Header>(b.data());
        ip->payload_length = Be16(static_cast<std::uint16_t>(behind.size()));
        ip->next_header = protocol_of(inner);
        break;
      }
      case Kind::kUdp: {
        auto* udp = view<UdpHeader>(b.data());
        udp->length = Be16(static_cast<std::uint16_t>(length));
        if (layer.no_checksum || outer == nullptr) break;
        udp->checksum = inverted(sum_all(pseudo_sum(*outer, length, ip_protocol::kUdp)));
        if (udp->checksum.raw() == 0) udp->checksum = Be16(0xffff);
        break;
      }
      case Kind::kIcmp4: view<IcmpHeader>(b.data())->checksum = inverted(sum_all(0)); break;
      case Kind::kIcmp6:
        if (outer != nullptr)
          view<IcmpHeader>(b.data())->checksum = inverted(sum_all(pseudo_sum(*outer, length, ip_protocol::kIcmpv6)));
        break;
      default: break;
    }
  }

  std::vector<Layer> layers_;
};

// Buffers are heap blocks of exactly headroom + room bytes. Knows each one: a double free or a leak fails the test.
class HeapPool : public BufferPool {
 public:
  ~HeapPool() override {
    EXPECT_EQ(live_.size(), 0u) << "buffers not returned";
    for (void* buffer : live_) delete[] static_cast<std::uint8_t*>(buffer);
  }
  unsigned allocate(Packet* out, unsigned count) noexcept override {
    for (unsigned i = 0; i < count; ++i) {
      if (++allocations_ == fail_at_ || (fail_from_ != 0 && allocations_ >= fail_from_)) return i;
      out[i] = make(kHeadroomBytes, 0, room_);
    }
    return count;
  }
  unsigned allocate_large(Packet* out, unsigned count) noexcept override {
    for (unsigned i = 0; i < count; ++i) {
      if (++large_allocations_ == large_fail_at_) return i;
      out[i] = make(kHeadroomBytes, 0, kMaxFrameBytes);
    }
    return count;
  }
  void free(Packet* const* packets, unsigned count) noexcept override {
    for (unsigned i = 0; i < count; ++i) give_back(packets[i]->buffer);
  }
  // A received frame: nothing behind its last byte.
  Packet receive(const Bytes& frame, std::uint16_t headroom = kHeadroomBytes, std::uint16_t tailroom = 0) {
    Packet packet = make(headroom, static_cast<std::uint32_t>(frame.size()), tailroom);
    if (!frame.empty()) std::memcpy(packet.data, frame.data(), frame.size());
    return packet;
  }
  void give_back(void* buffer) {
    EXPECT_EQ(live_.erase(buffer), 1u) << "freed twice, or not ours";
    delete[] static_cast<std::uint8_t*>(buffer);
  }
  void fail_at(unsigned n) { fail_at_ = n, allocations_ = 0; }      // the n-th allocation from now fails
  void large_fail_at(unsigned n) { large_fail_at_ = n, large_allocations_ = 0; }
  void fail_from(unsigned n) { fail_from_ = n, allocations_ = 0; }  // and all after it; 0: none
  [[nodiscard]] std::size_t live() const { return live_.size(); }
  [[nodiscard]] unsigned allocations() const { return allocations_; }

 private:
  Packet make(std::uint16_t headroom, std::uint32_t length, std::uint32_t tailroom) {
    auto* block = new std::uint8_t[static_cast<std::size_t>(headroom) + length + tailroom];
    live_.insert(block);
    Packet packet;
    packet.buffer = block;
    packet.data = block + headroom;
    packet.length = length;
    packet.headroom = headroom;
    packet.tailroom = tailroom;
    return packet;
  }
  std::set<void*> live_;
  unsigned allocations_ = 0, fail_at_ = 0, fail_from_ = 0;
  unsigned large_allocations_ = 0, large_fail_at_ = 0;
  std::uint16_t room_ = 2048;
};

// Receives what a test put in, keeps what was sent. `accept`: frames it takes in all before it is full.
class MemoryPort : public Port {
 public:
  MemoryPort(std::string name, HeapPool& pool) : Port(std::move(name)), pool_(pool) {}
  unsigned rx(std::uint16_t, Packet* out, unsigned count) noexcept override {
    unsigned n = 0;
    for (; n < count && !incoming.empty(); ++n) {
      out[n] = pool_.receive(incoming.front());
      incoming.pop_front();
      if (incoming_offloads.empty()) continue;
      out[n].offload = incoming_offloads.front();
      incoming_offloads.pop_front();
    }
    return n;
  }
  unsigned tx(std::uint16_t, Packet* const* packets, unsigned count) noexcept override {
    unsigned n = 0;
    for (; n < count && accept > 0; ++n, --accept) {
      if (refuse_length != 0 && packets[n]->length == refuse_length) {
        packets[n]->reason = DropReason::kPortDown;
        return n;
      }
      sent.emplace_back(packets[n]->data, packets[n]->data + packets[n]->length);
      sent_offloads.push_back(packets[n]->offload);
      pool_.give_back(packets[n]->buffer);
    }
    return n;
  }
  TxOffloads tx_offloads() const noexcept override { return offloads; }
  std::uint16_t rx_queues() const noexcept override { return 1; }
  std::uint16_t tx_queues() const noexcept override { return 1; }
  int rx_fd(std::uint16_t) const noexcept override { return -1; }

  std::deque<Bytes> incoming;
  std::deque<OffloadMeta> incoming_offloads;  // for the first of `incoming`; may be shorter
  std::vector<Bytes> sent;
  std::vector<OffloadMeta> sent_offloads;  // as long as `sent`
  TxOffloads offloads;
  std::uint64_t accept = ~std::uint64_t{0};
  std::uint32_t refuse_length = 0;  // frames of this length are refused one by one

 private:
  HeapPool& pool_;
};

inline const IpAddress kLocal4 = IpAddress::v4(172, 18, 1, 1), kRemote4 = IpAddress::v4(172, 18, 1, 2),
                       kOther4 = IpAddress::v4(172, 18, 1, 3);
inline IpAddress v6(std::uint8_t last) {
  return IpAddress{{0xfd, 0, 0, 0x18, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last}};
}
inline const MacAddress kOurMac = mac(0x020000000001), kPeerMac = mac(0x020000000002);
inline const MacAddress kGuestA = mac(0x525400000001), kGuestB = mac(0x525400000002), kFar = mac(0x5254000000f1),
                        kFar2 = mac(0x5254000000f2), kNobody = mac(0x5254000000ee);

inline VlanTable vlans(std::uint16_t pvid, std::uint16_t first, std::uint16_t last) {
  VlanTable table;
  table.pvid = pvid;
  table.members.insert_range(first, last);
  if (pvid != kNoPvid) {
    table.members.insert(pvid);
    table.untagged.insert(pvid);
  }
  return table;
}

inline Totals totals_of(const WorkerCounters& counters) {
  Totals t;
  for (const auto& port : counters.ports) {
    t.received += port.rx_packets;
    t.sent += port.tx_packets;
  }
  for (const auto drop : counters.drops) t.dropped += drop;
  t.cloned = counters.cloned;
  t.generated = counters.generated;
  t.segmented = counters.segmented;
  t.consumed = counters.consumed;
  t.coalesced = counters.coalesced;
  t.held = counters.held;
  return t;
}

// Port 0 is the underlay, 1 to 3 guests (PVID 1, VIDs 2-4094); overlay 0 has VNI 1000, VTEP 0 (flooded) and 1 (not).
struct TestHost {
  explicit TestHost(bool is_v6 = false, std::uint16_t outer_vlan = 0) {
    state.underlay.port = 0;
    state.underlay.vlan = outer_vlan;
    state.underlay.mtu = 1400;
    state.underlay.mac = kOurMac;
    state.underlay.local = {kLocal4, v6(1)};
    OverlayState overlay;
    overlay.exists = true;
    overlay.vni = 1000;
    overlay.local = is_v6 ? v6(1) : kLocal4;
    overlay.mtu = 1332;
    overlay.fdb = std::make_shared<Fdb>(4096, 7);
    overlay.tunnel_vlans = std::make_shared<const VlanTable>(vlans(1, 2, 4094));
    overlay.ports = {1, 2, 3};
    state.overlays.push_back(std::move(overlay));
    set_vteps({make_vtep(is_v6 ? v6(2) : kRemote4, true), make_vtep(is_v6 ? v6(3) : kOther4, false)});
    for (PortIndex i = 0; i < 4; ++i) {
      ports.push_back(std::make_shared<MemoryPort>("port" + std::to_string(i), pool));
      PortState port;
      port.port = ports[i];
      port.is_underlay = i == 0;
      port.overlay = i == 0 ? kNoIndex : OverlayIndex{0};
      if (i != 0) port.vlans = std::make_shared<const VlanTable>(vlans(1, 2, 4094));
      state.ports.push_back(port);
      assignment.tx.push_back({ports[i].get(), 0, nullptr});
      assignment.rx.push_back({ports[i].get(), i, 0, nullptr});
    }
    pipeline.use(&state, &assignment);
  }

  Vtep make_vtep(const IpAddress& address, bool flood, bool resolved = true) const {
    Vtep vtep;
    OuterHeaderFields fields;
    fields.source_mac = kOurMac;
    fields.next_hop = kPeerMac;
    fields.vlan = state.underlay.vlan;
    fields.source = state.overlays[0].local;
    fields.destination = address;
    fields.vni = state.overlays[0].vni;
    build_outer_header(fields, vtep);
    vtep.exists = true;
    vtep.flood = flood;
    vtep.resolved = resolved;
    vtep.outer_mtu = state.underlay.mtu;
    vtep.address = address;
    return vtep;
  }
  void set_vteps(std::vector<Vtep> list) {
    state.overlays[0].vteps = VtepTable(std::move(list));
    pipeline.use(&state, &assignment);
  }
  void set_vlans(PortIndex port, const VlanTable& table) {
    state.ports[port].vlans = std::make_shared<const VlanTable>(table);
  }
  Fdb& fdb() { return *state.overlays[0].fdb; }
  void learn(MacAddress address, Location location, std::uint8_t flags = 0, std::uint16_t vid = 1) {
    (void)fdb().put(fdb_key(vid, address), location, flags, now.seconds, now.seconds);
  }
  // The MACs A, B on ports 1, 2 and kFar, kFar2 behind VTEPs 0, 1, all of VLAN 1.
  void learn_all(std::uint16_t vid = 1) {
    learn(kGuestA, Location::port(1), 0, vid);
    learn(kGuestB, Location::port(2), 0, vid);
    learn(kFar, Location::vtep(0), 0, vid);
    learn(kFar2, Location::vtep(1), 0, vid);
  }

  void receive(PortIndex port, const std::vector<Bytes>& frames, std::uint16_t headroom = kHeadroomBytes) {
    std::vector<Packet> burst;
    for (const auto& frame : frames) burst.push_back(pool.receive(frame, headroom));
    if (has_state) pipeline.use(&state, &assignment);  // the test may have changed it
    pipeline.process(burst.data(), static_cast<unsigned>(burst.size()), port, now);
    EXPECT_TRUE(totals_of(counters()).balances());
    EXPECT_EQ(pool.live(), counters().held) << "every buffer but those held is back after a burst";
  }
  void receive(PortIndex port, const Bytes& frame) { receive(port, std::vector<Bytes>{frame}); }

  WorkerCounters& counters() { return pipeline.counters(); }
  std::uint64_t drops(DropReason reason) { return counters().drops[static_cast<std::size_t>(reason)]; }
  std::uint64_t dropped() { return totals_of(counters()).dropped; }
  std::vector<protocol::LearnEvent> events() {
    std::vector<protocol::LearnEvent> list;
    protocol::LearnEvent event;
    while (learn_queue.try_pop(event)) list.push_back(event);
    return list;
  }
  std::vector<PuntedFrame> punted() {
    std::vector<PuntedFrame> list;
    PuntedFrame frame;
    while (punt_queue.try_pop(frame)) list.push_back(frame);
    return list;
  }
  const std::vector<Bytes>& sent(PortIndex port) { return ports[port]->sent; }

  HeapPool pool;
  SpscQueue<protocol::LearnEvent> learn_queue{1024};
  SpscQueue<PuntedFrame> punt_queue{16};
  std::vector<std::shared_ptr<MemoryPort>> ports;
  ForwardingState state;
  Assignment assignment;
  bool has_state = true;
  Moment now = Moment::at(100'000'000'000);
  Pipeline pipeline{{1'000'000, 1024}, pool, learn_queue, punt_queue};
};

// A guest's frame: IPv4 UDP between two MACs.
inline FrameBuilder guest_frame(MacAddress destination, MacAddress source) {
  FrameBuilder b;
  b.eth(destination, source).ipv4(IpAddress::v4(10, 0, 0, 1), IpAddress::v4(10, 0, 0, 2)).udp(1234, 5678).payload(22);
  return b;
}
// The outer headers of a frame that VTEP `kRemote4` sends to us; add the inner frame.
inline FrameBuilder outer4(std::uint8_t tos = 0, std::uint32_t vni = 1000) {
  FrameBuilder b;
  b.eth(kOurMac, kPeerMac).ipv4(kRemote4, kLocal4).tos(tos).udp(55555, kVxlanPort).vxlan(vni);
  return b;
}
inline FrameBuilder outer6(std::uint8_t tos = 0, std::uint32_t vni = 1000) {
  FrameBuilder b;
  b.eth(kOurMac, kPeerMac).ipv6(v6(2), v6(1)).tos(tos).udp(55555, kVxlanPort).vxlan(vni);
  return b;
}
inline FrameBuilder& operator+(FrameBuilder&& outer, const FrameBuilder& inner) { return outer.raw(inner.build()); }

}  // namespace vx::testkit
