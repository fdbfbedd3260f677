// SPDX-License-Identifier: Apache-2.0
// What would surprise: a super-frame being coalesced lies in no list until it is closed, so nothing of its flow can be
// in front of it that came later; whatever of the flow cannot join closes it first.
#include "dataplane/sender.h"

#include <algorithm>
#include <cstring>

#include "dataplane/flow_hash.h"
#include "dataplane/segment.h"
#include "dataplane/super_frame.h"

namespace vx {
namespace {

constexpr unsigned kSegmentsAtOnce = 32;
constexpr unsigned kMostSegments = 65'536 / 48;  // no guest cuts finer; a bound on what one frame can cost

// Datagrams more than one that an encapsulated super-frame becomes in its port.
unsigned extra_datagrams(const Packet& packet) noexcept {
  if (!packet.offload.is_super_frame() || packet.length <= packet.offload.header_length) return 0;
  return (packet.length - packet.offload.header_length - 1u) / packet.offload.segment_size;
}

}  // namespace

Sender::Sender(BufferPool& pool, WorkerCounters& counters)
    : pool_(pool),
      counters_(counters),
      tx_(std::make_unique<TxList[]>(kMaxPorts)),
      egress_(std::make_unique<Egress[]>(kMaxPorts)),
      side_(std::make_unique<Packet[]>(kSideDescriptors)),
      open_(std::make_unique<Open[]>(kOpenFlows)) {}

void Sender::use(const ForwardingState* state, const Assignment* assignment) noexcept {
  if (is_holding()) send_held(UINT64_MAX);
  assignment_ = assignment;
  for (PortIndex i = 0; i < kMaxPorts; ++i) {
    egress_[i] = {};
    if (state == nullptr || assignment == nullptr || i >= state->ports.size()) continue;
    const PortState& port = state->ports[i];
    const bool has_queue = i < assignment->tx.size() && assignment->tx[i].port != nullptr;
    egress_[i].vlans = port.vlans.get();
    egress_[i].overlay = port.overlay;
    egress_[i].delivers = port.delivers;
    egress_[i].can_send = port.port != nullptr && port.is_up && has_queue;
    if (!egress_[i].can_send) continue;
    egress_[i].offloads = port.port->tx_offloads();
    egress_[i].coalesces = !port.is_underlay && egress_[i].offloads.tcp4 && egress_[i].offloads.tcp6;
  }
}

// ---- what the port does not take as it is ----

// A super-frame is looked at even when the port takes it: the kernel refuses one that contradicts itself.
[[gnu::cold]] void Sender::send_with_metadata(Packet& packet, PortIndex port) noexcept {
  const bool is_carried = egress_[port].offloads.carries(packet.offload);
  if (packet.offload.is_super_frame()) {
    SuperFrame at;
    if (const auto reason = parse_super_frame(packet, at); reason != DropReason::kNone) return drop_outgoing(packet, reason, port);
    if (!is_carried) return send_segments(packet, at, port, nullptr, {});
  } else {
    const std::uint32_t end = std::uint32_t{packet.offload.checksum_start} + packet.offload.checksum_offset + 2u;
    if (end > packet.length) return drop_outgoing(packet, DropReason::kGuestBadOffload, port);
    if (!is_carried)
      if (const auto reason = complete_checksum(packet); reason != DropReason::kNone) return drop_outgoing(packet, reason, port);
  }
  enqueue(packet, port);
}

[[gnu::cold]] DropReason Sender::send_encapsulated(Packet& packet, const Vtep& vtep, const EncapSettings& settings,
                                                   PortIndex underlay) noexcept {
  if (!packet.offload.is_super_frame()) {
    DropReason reason = complete_checksum(packet);
    if (reason == DropReason::kNone) reason = encap(packet, vtep, settings);
    if (reason == DropReason::kNone) send(packet, underlay);
    return reason;
  }
  SuperFrame at;
  if (const auto reason = parse_super_frame(packet, at); reason != DropReason::kNone) return reason;
  const std::uint32_t longest = std::min<std::uint32_t>(at.payload + at.segment_size, packet.length);
  if (const auto reason = may_encap(vtep, settings, longest, packet.headroom); reason != DropReason::kNone) return reason;
  // A train needs the outer checksum: the kernel completes it for each datagram.
  const bool has_checksum = settings.udp_csum || !vtep.is_v4;
  if (underlay < kMaxPorts && egress_[underlay].offloads.tunnel && has_checksum) send_tunnel_super_frame(packet, at, longest, vtep, settings, underlay);
  else send_segments(packet, at, underlay, &vtep, settings);
  return DropReason::kNone;
}

// The port makes the datagrams; `longest`: bytes of the longest segment. The outer UDP checksum field says only whether they
// are to have one.
void Sender::send_tunnel_super_frame(Packet& super, const SuperFrame& at, std::uint32_t longest, const Vtep& vtep,
                                     const EncapSettings& settings, PortIndex underlay) noexcept {
  const OuterUdp udp = push_outer_header(super, vtep, settings, inner_flow(super.data, super.length), longest);
  if (udp.wants_checksum) udp.header->checksum = Be16(0xffff);
  super.offload.header_length = at.payload;
  super.offload.shift(vtep.header_length);
  const unsigned extra = extra_datagrams(super);
  tx_[underlay].bytes += std::uint64_t{extra} * super.offload.header_length;
  tx_[underlay].extra += extra;
  enqueue(super, underlay);
}

void Sender::send_segments(Packet super, const SuperFrame& at, PortIndex port, const Vtep* vtep,
                           const EncapSettings& settings) noexcept {
  const Segmenter cut(super, at);
  const unsigned count = cut.count();
  const bool can_send = port < kMaxPorts && egress_[port].can_send;
  if (!can_send || count > kMostSegments) {
    counters_.count_drop(can_send ? DropReason::kGuestBadOffload : DropReason::kPortDown);
    if (port < kMaxPorts) ++counters_.ports[port].tx_dropped;
    return free_at_once(super);
  }
  const InnerFlow flow = vtep != nullptr ? inner_flow(super.data, super.length) : InnerFlow{};
  counters_.segmented += count - 1;
  unsigned made = 0;
  while (made < count) {
    const unsigned wanted = std::min(count - made, kSegmentsAtOnce);
    if (side_count_ + wanted > kSideDescriptors) recycle();
    Packet* segments = &side_[side_count_];
    const unsigned got = pool_.allocate(segments, wanted);
    side_count_ += got;
    for (unsigned i = 0; i < got; ++i, ++made) {
      Packet& segment = segments[i];
      if (segment.tailroom < cut.longest()) [[unlikely]] {
        drop_outgoing(segment, DropReason::kNoBuffer, port);
        continue;
      }
      const std::uint32_t sum = cut.make(made, segment);
      if (vtep != nullptr) {
        const OuterUdp udp = push_outer_header(segment, *vtep, settings, flow, segment.length);
        if (udp.wants_checksum) udp.complete(udp.seed + checksum_fold(sum));
      }
      enqueue(segment, port);
    }
    if (got == wanted) continue;
    const unsigned missing = count - made;
    counters_.drops[static_cast<std::size_t>(DropReason::kNoBuffer)] += missing;
    counters_.ports[port].tx_dropped += missing;
    break;
  }
  free_at_once(super);
}

// ---- coalescing ----

void Sender::send_coalescing(Packet& packet, PortIndex port) noexcept {
  TcpSegment segment;
  if (!parse_tcp_segment(packet, segment)) return enqueue(packet, port);
  Open& open = open_[(segment.flow + port) % kOpenFlows];
  const bool is_same = !open.is_free() && open.port == port && open.flow.segment.flow == segment.flow;
  if (is_same && join_open(open, packet, segment)) return;
  // Of this flow, but it cannot join; or the place is needed.
  if (!open.is_free() && (is_same || segment.may_start)) close(open);
  enqueue(packet, port);
  const TxList& list = tx_[port];
  if (!segment.may_start || list.count == 0) return;  // just flushed: gone
  const OpenFlow flow = open_flow(packet, segment);
  if (flow.is_closed) return;
  open.flow = flow;
  open.since_ns = open.last_ns = now_ns_;
  open.port = port;
  open.slot = static_cast<std::uint16_t>(list.count - 1);
  in_use_[open_count_++] = static_cast<std::uint8_t>(&open - open_.get());
}

// The lone head leaves its list and becomes a super-frame, `packet` joined to it.
bool Sender::start_super(Open& open, const Packet& packet, const TcpSegment& segment) noexcept {
  if (pool_.allocate_large(&open.large, 1) != 1) return false;
  Packet& head = *open.flow.head;
  if (!join_first(open.flow, open.large, packet, segment)) {
    free_at_once(open.large);
    return false;
  }
  TxList& list = tx_[open.port];
  list.packets[open.slot] = nullptr;
  list.bytes -= head.length;
  list.has_holes = true;
  release(head);
  ++counters_.held;
  return true;
}

bool Sender::join_open(Open& open, Packet& packet, const TcpSegment& segment) noexcept {
  if (!may_join(open.flow, packet, segment)) return false;
  if (!open.is_super()) {
    if (!start_super(open, packet, segment)) return false;
  } else if (!join(open.flow, packet, segment)) {
    return false;
  }
  ++counters_.coalesced;
  release(packet);
  open.last_ns = now_ns_;
  if (open.flow.is_closed) close(open);
  return true;
}

// A super-frame goes into its port's list; a lone head is in it already.
void Sender::close(Open& open) noexcept {
  const auto place = static_cast<std::uint8_t>(&open - open_.get());
  const auto end = in_use_.begin() + open_count_;
  *std::find(in_use_.begin(), end, place) = *(end - 1);
  --open_count_;
  const bool is_super = open.is_super();
  if (is_super) finish(open.flow);
  open.flow = {};
  if (!is_super) return;
  --counters_.held;
  Packet* packet = side_descriptor();
  *packet = open.large;
  if (!egress_[open.port].can_send) return drop_outgoing(*packet, DropReason::kPortDown, open.port);
  enqueue(*packet, open.port);
}

// Heads in the list of `port` are about to be sent: nothing can join them any more.
void Sender::forget_heads(PortIndex port) noexcept {
  for (unsigned i = open_count_; i-- > 0;) {
    Open& open = open_[in_use_[i]];
    if (open.port == port && !open.is_super()) close(open);
  }
}

void Sender::send_held(std::uint64_t now_ns) noexcept {
  for (unsigned i = open_count_; i-- > 0;) {
    Open& open = open_[in_use_[i]];
    if (now_ns - open.since_ns >= kHoldNs || now_ns - open.last_ns >= kHoldGapNs) close(open);
  }
  recycle();
}

// ---- descriptors and lists ----

Packet* Sender::side_descriptor() noexcept {
  if (side_count_ == kSideDescriptors) recycle();
  return &side_[side_count_++];
}

Packet* Sender::make_empty() noexcept {
  Packet* packet = side_descriptor();
  if (pool_.allocate(packet, 1) == 1) return packet;
  --side_count_;
  return nullptr;
}

Packet* Sender::make_copy(const Packet& packet) noexcept {
  Packet* copy = side_descriptor();
  if (pool_.allocate(copy, 1) != 1) {
    --side_count_;
    return nullptr;
  }
  if (copy->tailroom < packet.length) {
    free_at_once(*copy);
    if (pool_.allocate_large(copy, 1) != 1 || copy->tailroom < packet.length) {
      --side_count_;
      return nullptr;
    }
  }
  std::memcpy(copy->data, packet.data, packet.length);
  copy->length = packet.length;
  copy->tailroom -= packet.length;
  copy->ingress_port = packet.ingress_port;
  copy->source = packet.source;
  copy->tci = packet.tci;
  copy->is_tagged = packet.is_tagged;
  copy->offload = packet.offload;
  return copy;
}

// Leaves the port in active_: an empty list there is skipped.
void Sender::flush_port(PortIndex port) noexcept {
  TxList& list = tx_[port];
  if (open_count_ != 0) [[unlikely]] forget_heads(port);
  if (list.has_holes) [[unlikely]] {
    const auto end = std::remove(list.packets.begin(), list.packets.begin() + list.count, nullptr);
    list.count = static_cast<unsigned>(end - list.packets.begin());
    list.has_holes = false;
  }
  const TxQueueRef& queue = assignment_->tx[port];
  PortCounters& counters = counters_.ports[port];
  std::uint64_t bytes = list.bytes, extra = list.extra;
  if (queue.lock != nullptr)
    while (queue.lock->test_and_set(std::memory_order_acquire)) __builtin_ia32_pause();
  unsigned done = list.count != 0 ? queue.port->tx(queue.queue, list.packets.data(), list.count) : 0;
  unsigned sent = done;
  while (done < list.count) [[unlikely]] {
    Packet& refused = *list.packets[done++];
    const bool is_full = refused.reason == DropReason::kNone;
    const unsigned of_it = list.extra != 0 ? extra_datagrams(refused) : 0;
    extra -= of_it;
    bytes -= refused.length + std::uint64_t{of_it} * refused.offload.header_length;
    drop_outgoing(refused, is_full ? DropReason::kTxFull : refused.reason, port);
    if (is_full || done == list.count) continue;
    const unsigned more = queue.port->tx(queue.queue, list.packets.data() + done, list.count - done);
    done += more;
    sent += more;
  }
  if (queue.lock != nullptr) queue.lock->clear(std::memory_order_release);
  counters.tx_packets += sent + extra;
  counters.tx_bytes += bytes;
  counters_.segmented += extra;
  list.count = 0;
  list.bytes = 0;
  list.extra = 0;
}

void Sender::flush() noexcept {
  for (unsigned i = 0; i < active_count_; ++i)
    if (tx_[active_[i]].count != 0) flush_port(active_[i]);
  active_count_ = 0;
}

// Everything in lists leaves; all descriptors of copies are free again.
void Sender::recycle() noexcept {
  flush();
  free_released();
  side_count_ = 0;
}

void Sender::end_burst() noexcept {
  recycle();
}

void Sender::drop_received(Packet& packet, DropReason reason) noexcept {
  counters_.count_drop(reason);
  ++counters_.ports[packet.ingress_port].rx_dropped;
  release(packet);
}

void Sender::drop_outgoing(Packet& packet, DropReason reason, PortIndex port) noexcept {
  counters_.count_drop(reason);
  if (port < kMaxPorts) ++counters_.ports[port].tx_dropped;
  release(packet);
}

void Sender::release(Packet& packet) noexcept {
  released_[released_count_++] = &packet;
  if (released_count_ == released_.size()) free_released();
}

void Sender::free_at_once(Packet& packet) noexcept {
  Packet* one = &packet;
  pool_.free(&one, 1);
}

void Sender::free_released() noexcept {
  if (released_count_ != 0) pool_.free(released_.data(), released_count_);
  released_count_ = 0;
}

}  // namespace vx
