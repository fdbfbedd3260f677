// SPDX-License-Identifier: Apache-2.0
// What librte_ip_frag (22.11 and 24.11) does and does not do, hence what is checked here:
//  - It adds up lengths and takes a datagram for whole when the sum is the end of the last fragment; then it joins what
//    touches exactly. With an overlap either the sum is too large or a hole is left: both free all of the datagram. So
//    no overlap gets through, provided that no fragment is empty and offsets do not wrap: that is checked here.
//  - It knows one fragment header directly behind the IPv6 header, and waits for ever for more of an "atomic" fragment.
//  - It leaves the IPv4 header's checksum, and congestion marks of later fragments, to the caller.
#define ALLOW_EXPERIMENTAL_API  // rte_ip_frag_table_del_expired_entries in 22.11
#include "dataplane/ip_reassembly.h"

#include <rte_ip_frag.h>
#include <rte_lcore.h>
#include <rte_mbuf.h>

#include <stdexcept>

#include "dataplane/buffer_pool_mbuf.h"
#include "dataplane/ip_checksum.h"
#include "dataplane/tally.h"

namespace vx {
namespace {

static_assert(RTE_LIBRTE_IP_FRAG_MAX_FRAG >= IpReassembly::kMostFragments);

constexpr unsigned kBuckets = 32, kBucketEntries = 8;
static_assert(kBuckets * kBucketEntries >= IpReassembly::kMostDatagrams);
constexpr std::uint32_t kMostIpBytes = 65'535;

struct FragmentHeader {  // RFC 8200 section 4.5
  std::uint8_t next_header;
  std::uint8_t reserved;
  Be16 offset_more;  // 13 bits of offset in units of 8 bytes, 2 reserved, M
  Be32 identification;
};
static_assert(sizeof(FragmentHeader) == 8);

struct Fragment {
  std::uint32_t layer2 = 0;   // bytes in front of the IP header
  std::uint32_t layer3 = 0;   // IP header with options, or IPv6 and fragment header
  std::uint32_t payload = 0;  // bytes behind them
  std::uint32_t offset = 0;   // of the payload in the datagram's
  bool is_v4 = true;
  bool has_more = false;
};

// False: the fragment cannot be part of any datagram. IpReassembly::is_fragment() is true of it.
bool parse(const Packet& packet, Fragment& fragment) noexcept {
  const bool is_tagged = view<EthernetHeader>(packet.data)->type == ether_type::kVlan;
  fragment.layer2 = sizeof(EthernetHeader) + (is_tagged ? sizeof(VlanTag) : 0);
  const std::uint8_t* at = packet.data + fragment.layer2;
  const std::uint32_t left = packet.length - fragment.layer2;
  fragment.is_v4 = view<Be16>(at - 2)[0] == ether_type::kIpv4;
  if (fragment.is_v4) {
    const auto* ip = view<Ipv4Header>(at);
    const std::uint32_t total = ip->total_length.host();
    fragment.layer3 = ip->header_length();
    if (ip->version_ihl >> 4 != 4 || fragment.layer3 < sizeof(Ipv4Header) || total <= fragment.layer3 || total > left)
      return false;
    if (checksum_fold(checksum_partial(at, fragment.layer3)) != 0xffff) return false;
    fragment.payload = total - fragment.layer3;
    fragment.offset = (ip->flags_fragment.host() & kIpv4OffsetMask) * 8u;
    fragment.has_more = (ip->flags_fragment.host() & kIpv4MoreFragments) != 0;
  } else {
    const std::uint32_t behind = view<Ipv6Header>(at)->payload_length.host();
    const auto* header = view<FragmentHeader>(at + sizeof(Ipv6Header));
    fragment.layer3 = sizeof(Ipv6Header) + sizeof(FragmentHeader);
    if (at[0] >> 4 != 6 || behind <= sizeof(FragmentHeader) || behind > left - sizeof(Ipv6Header)) return false;
    fragment.payload = behind - static_cast<std::uint32_t>(sizeof(FragmentHeader));
    fragment.offset = header->offset_more.host() & 0xfff8u;
    fragment.has_more = (header->offset_more.host() & 1) != 0;
  }
  if (fragment.has_more && fragment.payload % 8 != 0) return false;
  const std::uint32_t fixed = fragment.is_v4 ? fragment.layer3 : 0;  // what the length field counts besides the payload
  return fixed + fragment.offset + fragment.payload <= kMostIpBytes;
}

[[nodiscard]] std::uint8_t tos_of(const std::uint8_t* ip, bool is_v4) noexcept {
  return is_v4 ? ip[1] : ipv6_traffic_class(ip);
}

// RFC 3168 section 5.3: CE on any fragment is CE on the datagram, which all must be able to carry. The later fragments'
// IP headers still lie in front of their data. False: a CE that must not be lost meets a fragment that is not ECT.
bool merge_ecn(rte_mbuf* chain, std::uint8_t* ip, bool is_v4) noexcept {
  const std::uint8_t first = tos_of(ip, is_v4);
  bool has_ce = (first & kEcnMask) == kCe, has_not_ect = (first & kEcnMask) == kNotEct;
  for (rte_mbuf* segment = chain->next; segment != nullptr; segment = segment->next) {
    const std::uint8_t tos = tos_of(rte_pktmbuf_mtod(segment, std::uint8_t*) - segment->l3_len, is_v4);
    has_ce |= (tos & kEcnMask) == kCe;
    has_not_ect |= (tos & kEcnMask) == kNotEct;
  }
  if (!has_ce) return true;
  if (has_not_ect) return false;
  if (is_v4)
    ip[1] = static_cast<std::uint8_t>(first | kCe);
  else
    set_ipv6_traffic_class(ip, static_cast<std::uint8_t>(first | kCe));
  return true;
}

// RFC 6980 section 5: such a message in fragments, or behind a fragment header at all, is ignored. At least one byte is
// behind the header.
bool is_neighbour_discovery(const std::uint8_t* ip) noexcept {
  constexpr std::uint8_t kRouterSolicitation = 133, kRedirect = 137;  // RFC 4861 section 4
  const std::uint8_t type = ip[sizeof(Ipv6Header)];
  return view<Ipv6Header>(ip)->next_header == ip_protocol::kIcmpv6 && type >= kRouterSolicitation && type <= kRedirect;
}

}  // namespace

struct IpReassembly::Impl {
  explicit Impl(MbufPool& p)
      : pool(p), table(rte_ip_frag_table_create(kBuckets, kBucketEntries, kMostDatagrams, kTimeout_ns,
                                                static_cast<int>(rte_socket_id()))) {
    if (table == nullptr)
      throw std::runtime_error("no memory for the reassembly of fragments; give more with --memory");
  }

  // Frees what the library has given up; returns how many fragments that were.
  std::uint64_t bury() noexcept {
    std::uint64_t fragments = 0;
    for (std::uint32_t i = 0; i < dead.cnt; ++i) fragments += dead.row[i]->nb_segs;
    rte_ip_frag_free_death_row(&dead, 0);
    return fragments;
  }
  void refuse(rte_mbuf* chain) noexcept {
    refused.add(chain->nb_segs);
    rte_pktmbuf_free(chain);
  }
  [[nodiscard]] rte_mbuf* join(rte_mbuf* mbuf, const Fragment& fragment, std::uint64_t now_ns) noexcept;
  [[nodiscard]] bool finish(rte_mbuf* chain, const Fragment& fragment, Packet& packet) noexcept;
  [[nodiscard]] bool flatten(rte_mbuf* chain, Packet& packet) noexcept;

  MbufPool& pool;
  rte_ip_frag_tbl* table;
  rte_ip_frag_death_row dead{};
  Tally taken, reassembled, joined, refused, expired;
};

// The whole datagram as a chain, first fragment first, with its IP header updated but for the checksum; or null.
rte_mbuf* IpReassembly::Impl::join(rte_mbuf* mbuf, const Fragment& fragment, std::uint64_t now_ns) noexcept {
  mbuf->l2_len = fragment.layer2;
  mbuf->l3_len = fragment.layer3;
  auto* ip = rte_pktmbuf_mtod(mbuf, std::uint8_t*) + fragment.layer2;
  if (fragment.is_v4)
    return rte_ipv4_frag_reassemble_packet(table, &dead, mbuf, now_ns, reinterpret_cast<rte_ipv4_hdr*>(ip));
  auto* header = reinterpret_cast<rte_ipv6_fragment_ext*>(ip + sizeof(Ipv6Header));
  if (fragment.offset != 0 || fragment.has_more)
    return rte_ipv6_frag_reassemble_packet(table, &dead, mbuf, now_ns, reinterpret_cast<rte_ipv6_hdr*>(ip), header);
  // A fragment that is the whole datagram is not waited for (RFC 6946): its header is cut out.
  view<Ipv6Header>(ip)->next_header = header->next_header;
  view<Ipv6Header>(ip)->payload_length = Be16(static_cast<std::uint16_t>(fragment.payload));
  std::uint8_t* const frame = rte_pktmbuf_mtod(mbuf, std::uint8_t*);
  std::memmove(frame + sizeof(FragmentHeader), frame, fragment.layer2 + sizeof(Ipv6Header));
  (void)rte_pktmbuf_adj(mbuf, sizeof(FragmentHeader));
  return mbuf;
}

bool IpReassembly::Impl::finish(rte_mbuf* chain, const Fragment& fragment, Packet& packet) noexcept {
  std::uint8_t* ip = rte_pktmbuf_mtod(chain, std::uint8_t*) + fragment.layer2;
  const std::uint32_t fixed = fragment.is_v4 ? 0 : sizeof(Ipv6Header);
  if (chain->pkt_len > fragment.layer2 + fixed + kMostIpBytes || !merge_ecn(chain, ip, fragment.is_v4)) {
    refuse(chain);  // the first fragment had more options than the last: together too long
    return false;
  }
  if (fragment.is_v4) {
    set_ipv4_checksum(ip);
  } else if (is_neighbour_discovery(ip)) {
    refuse(chain);
    return false;
  }
  const std::uint64_t fragments = chain->nb_segs;
  if (!flatten(chain, packet)) return false;
  joined.add(fragments);
  reassembled.add(1);
  return true;
}

// All bytes in one buffer: the first one's when they fit, else a large one's.
bool IpReassembly::Impl::flatten(rte_mbuf* chain, Packet& packet) noexcept {
  if (rte_pktmbuf_linearize(chain) == 0) {
    chain->tx_offload = 0;
    MbufPool::view_mbuf(chain, packet);
    return true;
  }
  Packet whole;
  if (pool.allocate_large(&whole, 1) != 1) {
    refuse(chain);
    return false;
  }
  const std::uint32_t length = chain->pkt_len;
  for (rte_mbuf* segment = chain; segment != nullptr; segment = segment->next) {
    std::memcpy(whole.data + whole.length, rte_pktmbuf_mtod(segment, const std::uint8_t*), segment->data_len);
    whole.length += segment->data_len;
  }
  whole.tailroom -= length;
  rte_pktmbuf_free(chain);
  packet = whole;
  return true;
}

IpReassembly::IpReassembly(MbufPool& pool) : impl_(std::make_unique<Impl>(pool)) {}

IpReassembly::~IpReassembly() {
  expire(UINT64_MAX);
  rte_ip_frag_table_destroy(impl_->table);
}

bool IpReassembly::take(Packet& packet, std::uint64_t now_ns) noexcept {
  expire(now_ns);  // so that all that join() gives up was refused
  impl_->taken.add(1);
  rte_mbuf* mbuf = MbufPool::to_mbuf(packet);
  Fragment fragment;
  if (!parse(packet, fragment)) {
    impl_->refuse(mbuf);
    return false;
  }
  rte_mbuf* whole = impl_->join(mbuf, fragment, now_ns);
  impl_->refused.add(impl_->bury());
  return whole != nullptr && impl_->finish(whole, fragment, packet);
}

void IpReassembly::expire(std::uint64_t now_ns) noexcept {
  do {  // as many at a time as the row has room for
    rte_ip_frag_table_del_expired_entries(impl_->table, &impl_->dead, now_ns);
    const std::uint64_t fragments = impl_->bury();
    if (fragments == 0) return;
    impl_->expired.add(fragments);
  } while (true);
}

bool IpReassembly::holds() const noexcept { return counters().held() != 0; }

IpReassembly::Counters IpReassembly::counters() const noexcept {
  const Impl& i = *impl_;
  // Taken last: a reader beside the worker never sees more in the places than were taken.
  Counters c{0, i.reassembled.get(), i.joined.get(), i.refused.get(), i.expired.get()};
  c.taken = i.taken.get();
  return c;
}

}  // namespace vx
