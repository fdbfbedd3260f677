// SPDX-License-Identifier: Apache-2.0
// The FDBs of a kernel bridge and of its vxlan device, over rtnetlink (AF_BRIDGE neighbours).
#include <libmnl/libmnl.h>
#include <linux/neighbour.h>
#include <linux/rtnetlink.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>

#include "control/rtnetlink.h"

namespace vx::control {

namespace {

constexpr std::size_t kBatchBytes = 32 * 1024;   // netlink takes several messages a buffer
constexpr std::size_t kWriteBytes = 128;         // more than any one message of ours
constexpr std::size_t kReceiveBytes = 64 * 1024;

using Attributes = std::array<const nlattr*, NDA_MAX + 1>;

int collect(const nlattr* attribute, void* data) {
  auto& into = *static_cast<Attributes*>(data);
  const auto type = mnl_attr_get_type(attribute);
  if (type < into.size()) into[type] = attribute;
  return MNL_CB_OK;
}

template <typename Value>
std::optional<Value> value_of(const nlattr* attribute) {
  if (attribute == nullptr || mnl_attr_get_payload_len(attribute) < sizeof(Value)) return std::nullopt;
  Value value;
  std::memcpy(&value, mnl_attr_get_payload(attribute), sizeof value);
  return value;
}

std::optional<IpAddress> address_of(const nlattr* attribute) {
  if (attribute == nullptr) return std::nullopt;
  if (mnl_attr_get_payload_len(attribute) == 4) return IpAddress::from_v4_bytes(mnl_attr_get_payload(attribute));
  if (mnl_attr_get_payload_len(attribute) == 16) return IpAddress::from_v6_bytes(mnl_attr_get_payload(attribute));
  return std::nullopt;
}

// Ages come in USER_HZ ticks.
std::uint32_t seconds_of(std::uint32_t ticks) {
  static const long per_second = ::sysconf(_SC_CLK_TCK);
  return ticks / static_cast<std::uint32_t>(per_second > 0 ? per_second : 100);
}

// What each kind of write looks like, as found out on 6.18 and read in 6.1:
// - a learned bridge entry by NTF_USE: br_fdb_update(), the very function a received frame goes through;
// - a learned one of the vxlan device by NTF_USE with REPLACE: a new place is taken, and the time that ageing looks at
//   is set (`updated` since 6.14, `used` before). Without NTF_USE a known place changes nothing, and the entry ages.
nlmsghdr* put_write(void* at, const BridgeFdbWrite& write) {
  nlmsghdr* message = mnl_nlmsg_put_header(at);
  message->nlmsg_type = write.is_delete ? RTM_DELNEIGH : RTM_NEWNEIGH;
  message->nlmsg_flags = static_cast<std::uint16_t>(NLM_F_REQUEST | (write.is_delete ? 0 : NLM_F_CREATE | NLM_F_REPLACE));
  auto* header = static_cast<ndmsg*>(mnl_nlmsg_put_extra_header(message, sizeof(ndmsg)));
  const bool is_tunnel = write.dst.has_value();
  header->ndm_family = AF_BRIDGE;
  header->ndm_ifindex = write.ifindex;
  header->ndm_flags = is_tunnel ? NTF_SELF : NTF_MASTER;
  header->ndm_state = NUD_REACHABLE;
  if (!write.is_delete && !write.is_static) header->ndm_flags |= NTF_USE;
  if (write.is_static) header->ndm_state = is_tunnel ? NUD_NOARP | NUD_REACHABLE : NUD_NOARP;
  mnl_attr_put(message, NDA_LLADDR, write.mac.bytes.size(), write.mac.bytes.data());
  if (write.vid != 0 && !is_tunnel) mnl_attr_put_u16(message, NDA_VLAN, write.vid);
  if (is_tunnel && write.dst->is_v4()) mnl_attr_put(message, NDA_DST, 4, write.dst->v4_bytes());
  if (is_tunnel && !write.dst->is_v4()) mnl_attr_put(message, NDA_DST, 16, write.dst->bytes.data());
  return message;
}

}  // namespace

std::optional<BridgeFdbEntry> parse_bridge_fdb(const nlmsghdr* message) {
  if (message->nlmsg_type != RTM_NEWNEIGH && message->nlmsg_type != RTM_DELNEIGH) return std::nullopt;
  if (mnl_nlmsg_get_payload_len(message) < sizeof(ndmsg)) return std::nullopt;
  const auto* header = static_cast<const ndmsg*>(mnl_nlmsg_get_payload(message));
  if (header->ndm_family != AF_BRIDGE) return std::nullopt;
  Attributes attributes{};
  mnl_attr_parse(message, sizeof(ndmsg), collect, &attributes);
  const nlattr* mac = attributes[NDA_LLADDR];
  if (mac == nullptr || mnl_attr_get_payload_len(mac) != 6) return std::nullopt;
  BridgeFdbEntry entry;
  entry.ifindex = header->ndm_ifindex;
  entry.state = header->ndm_state;
  entry.flags = header->ndm_flags;
  std::memcpy(entry.mac.bytes.data(), mnl_attr_get_payload(mac), 6);
  entry.master = static_cast<int>(value_of<std::uint32_t>(attributes[NDA_MASTER]).value_or(0));
  entry.vid = value_of<std::uint16_t>(attributes[NDA_VLAN]).value_or(0);
  entry.ext_flags = value_of<std::uint32_t>(attributes[NDA_FLAGS_EXT]).value_or(0);
  entry.dst = address_of(attributes[NDA_DST]);
  entry.vni = value_of<std::uint32_t>(attributes[NDA_VNI]);
  if (const auto port = value_of<std::array<std::uint8_t, 2>>(attributes[NDA_PORT]))
    entry.port = static_cast<std::uint16_t>((*port)[0] << 8 | (*port)[1]);  // network order
  if (const auto cache = value_of<nda_cacheinfo>(attributes[NDA_CACHEINFO])) {
    entry.used_s = seconds_of(cache->ndm_used);
    entry.updated_s = seconds_of(cache->ndm_updated);
  }
  return entry;
}

int RouteSocket::bridge_fdb(int bridge, const std::function<void(const BridgeFdbEntry&)>& on_entry) {
  alignas(8) std::array<char, kWriteBytes> buffer{};
  nlmsghdr* message = mnl_nlmsg_put_header(buffer.data());
  message->nlmsg_type = RTM_GETNEIGH;
  message->nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP;
  // The form with an ifinfomsg is the one every kernel knows; IFLA_MASTER asks for one bridge and its ports.
  static_cast<ifinfomsg*>(mnl_nlmsg_put_extra_header(message, sizeof(ifinfomsg)))->ifi_family = AF_BRIDGE;
  if (bridge != 0) mnl_attr_put_u32(message, IFLA_MASTER, static_cast<std::uint32_t>(bridge));
  return talk(message, [&](const nlmsghdr* answer) {
    if (const auto entry = parse_bridge_fdb(answer)) on_entry(*entry);
  });
}

// No write asks for an acknowledgement but the last of a batch, which tells that the answers to all of them are in.
int RouteSocket::write_bridge_fdb(std::span<const BridgeFdbWrite> writes,
                                  const std::function<void(std::size_t, int)>& on_error) {
  std::vector<char> batch(kBatchBytes), answers(kReceiveBytes);
  for (std::size_t begin = 0; begin < writes.size();) {
    std::size_t length = 0, end = begin;
    const std::uint32_t first = sequence_ + 1;
    nlmsghdr* last = nullptr;
    for (; end < writes.size() && length + kWriteBytes <= batch.size(); ++end) {
      last = put_write(batch.data() + length, writes[end]);
      last->nlmsg_seq = ++sequence_;
      length += MNL_ALIGN(last->nlmsg_len);
    }
    last->nlmsg_flags |= NLM_F_ACK;
    const std::uint32_t final = sequence_;
    if (mnl_socket_sendto(requests_, batch.data(), length) < 0) return errno;
    for (bool is_answered = false; !is_answered;) {
      const auto got = mnl_socket_recvfrom(requests_, answers.data(), answers.size());
      if (got < 0) {
        // So many errors that some were lost: the writes were done, and what failed is tried again in time.
        if (errno == ENOBUFS) break;
        return errno;
      }
      int remaining = static_cast<int>(got);
      for (auto* answer = reinterpret_cast<nlmsghdr*>(answers.data()); mnl_nlmsg_ok(answer, remaining);
           answer = mnl_nlmsg_next(answer, &remaining)) {
        if (answer->nlmsg_type != NLMSG_ERROR || mnl_nlmsg_get_payload_len(answer) < sizeof(nlmsgerr)) continue;
        const std::uint32_t index = answer->nlmsg_seq - first;
        if (index > final - first) continue;  // to an earlier question
        const int error = -static_cast<const nlmsgerr*>(mnl_nlmsg_get_payload(answer))->error;
        if (error != 0 && on_error) on_error(begin + index, error);
        is_answered = is_answered || answer->nlmsg_seq == final;
      }
    }
    begin = end;
  }
  return 0;
}

}  // namespace vx::control
