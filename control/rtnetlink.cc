// SPDX-License-Identifier: Apache-2.0
#include "control/rtnetlink.h"

#include <fcntl.h>
#include <libmnl/libmnl.h>
#include <linux/if.h>
#include <linux/if_bridge.h>
#include <linux/if_link.h>
#include <linux/neighbour.h>
#include <linux/rtnetlink.h>
#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <system_error>

namespace vx::control {

namespace {

constexpr std::size_t kReceiveBytes = 64 * 1024;
constexpr int kDumpAttempts = 10;  // at a list that changes while it is read

// A request under construction, in a buffer that is large enough for all of ours.
class Request {
 public:
  Request(std::uint16_t type, std::uint16_t flags) {
    header_ = mnl_nlmsg_put_header(buffer_.data());
    header_->nlmsg_type = type;
    header_->nlmsg_flags = static_cast<std::uint16_t>(NLM_F_REQUEST | flags);
  }
  template <typename Header>
  Header& extra() {
    return *static_cast<Header*>(mnl_nlmsg_put_extra_header(header_, sizeof(Header)));
  }
  void put(std::uint16_t type, const IpAddress& ip) {
    if (ip.is_v4()) {
      mnl_attr_put(header_, type, 4, ip.v4_bytes());
    } else {
      mnl_attr_put(header_, type, 16, ip.bytes.data());
    }
  }
  void put_u32(std::uint16_t type, std::uint32_t value) { mnl_attr_put_u32(header_, type, value); }
  [[nodiscard]] nlmsghdr* message() noexcept { return header_; }

 private:
  alignas(8) std::array<char, 1024> buffer_{};
  nlmsghdr* header_;
};

std::uint8_t family_of(const IpAddress& ip) { return ip.is_v4() ? AF_INET : AF_INET6; }

mnl_socket* open_socket() {
  mnl_socket* socket = mnl_socket_open2(NETLINK_ROUTE, SOCK_CLOEXEC);
  if (socket == nullptr || mnl_socket_bind(socket, 0, MNL_SOCKET_AUTOPID) < 0)
    throw std::system_error(errno, std::generic_category(), "rtnetlink socket");
  return socket;
}

}  // namespace

RouteSocket::RouteSocket() : requests_(open_socket()), events_(open_socket()) {
  // The kernel answers at once; should an answer be lost, control must not hang.
  const timeval patience{2, 0};
  setsockopt(mnl_socket_get_fd(requests_), SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  event_fd_ = mnl_socket_get_fd(events_);
  fcntl(event_fd_, F_SETFL, fcntl(event_fd_, F_GETFL) | O_NONBLOCK);
  const int size = 8 << 20;  // some ten thousand events: a burst of FDB entries, our own writes included
  setsockopt(event_fd_, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof size);
  for (int group : {RTNLGRP_LINK, RTNLGRP_NEIGH, RTNLGRP_IPV4_IFADDR, RTNLGRP_IPV6_IFADDR, RTNLGRP_IPV4_ROUTE,
                    RTNLGRP_IPV6_ROUTE, RTNLGRP_IPV4_RULE, RTNLGRP_IPV6_RULE, RTNLGRP_TC})
    mnl_socket_setsockopt(events_, NETLINK_ADD_MEMBERSHIP, &group, sizeof group);
}

RouteSocket::~RouteSocket() {
  mnl_socket_close(requests_);
  mnl_socket_close(events_);
}

int RouteSocket::talk(nlmsghdr* message, const OnMessage& on_message) {
  const bool is_dump = (message->nlmsg_flags & NLM_F_DUMP) == NLM_F_DUMP;
  std::vector<char> answers;
  for (int attempt = 1;; ++attempt) {
    answers.clear();
    bool is_interrupted = false;
    if (const int error = ask(message, answers, is_interrupted); error != 0) return error;
    // What changed while it was read may be missing; what an event told of since, we ask for again anyway.
    if (!is_dump || !is_interrupted || attempt == kDumpAttempts) break;
  }
  int remaining = static_cast<int>(answers.size());
  if (on_message)
    for (auto* answer = reinterpret_cast<nlmsghdr*>(answers.data()); mnl_nlmsg_ok(answer, remaining); answer = mnl_nlmsg_next(answer, &remaining))
      on_message(answer);
  return 0;
}

// One question and all of its answers, aligned as the kernel sent them.
int RouteSocket::ask(nlmsghdr* message, std::vector<char>& answers, bool& is_interrupted) {
  message->nlmsg_seq = ++sequence_;
  if (mnl_socket_sendto(requests_, message, message->nlmsg_len) < 0) return errno;
  const bool is_single = (message->nlmsg_flags & (NLM_F_DUMP | NLM_F_ACK)) == 0;
  std::vector<char> buffer(kReceiveBytes);
  for (;;) {
    const auto got = mnl_socket_recvfrom(requests_, buffer.data(), buffer.size());
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return errno;
    int remaining = static_cast<int>(got);
    for (auto* answer = reinterpret_cast<nlmsghdr*>(buffer.data()); mnl_nlmsg_ok(answer, remaining); answer = mnl_nlmsg_next(answer, &remaining)) {
      if (answer->nlmsg_seq != sequence_) continue;  // to an earlier, broken-off question
      is_interrupted |= (answer->nlmsg_flags & NLM_F_DUMP_INTR) != 0;
      if (answer->nlmsg_type == NLMSG_ERROR || answer->nlmsg_type == NLMSG_DONE) {  // both begin with a negative errno, or 0
        int error = 0;
        if (mnl_nlmsg_get_payload_len(answer) >= sizeof error) std::memcpy(&error, mnl_nlmsg_get_payload(answer), sizeof error);
        return -error;
      }
      if (answer->nlmsg_type < NLMSG_MIN_TYPE) continue;
      const auto* bytes = reinterpret_cast<const char*>(answer);
      answers.insert(answers.end(), bytes, bytes + answer->nlmsg_len);
      answers.resize(NLMSG_ALIGN(answers.size()));
      if (is_single) return 0;
    }
  }
}

std::vector<Link> RouteSocket::links() {
  Request request(RTM_GETLINK, NLM_F_DUMP);
  request.extra<ifinfomsg>();
  std::vector<Link> links;
  talk(request.message(), [&](const nlmsghdr* message) {
    if (auto link = parse_link(message)) links.push_back(std::move(*link));
  });
  return links;
}

std::optional<Link> RouteSocket::link(const std::string& name) {
  Request request(RTM_GETLINK, 0);
  request.extra<ifinfomsg>();
  mnl_attr_put_strz(request.message(), IFLA_IFNAME, name.substr(0, IFNAMSIZ - 1).c_str());
  std::optional<Link> found;
  talk(request.message(), [&](const nlmsghdr* message) { found = parse_link(message); });
  return found;
}

std::vector<Neighbour> RouteSocket::neighbours(int ifindex) {
  std::vector<Neighbour> neighbours;
  for (const std::uint8_t family : {AF_INET, AF_INET6}) {
    Request request(RTM_GETNEIGH, NLM_F_DUMP);
    auto& header = request.extra<ndmsg>();
    header.ndm_family = family;
    request.put_u32(NDA_IFINDEX, static_cast<std::uint32_t>(ifindex));
    talk(request.message(), [&](const nlmsghdr* message) {
      if (const auto neighbour = parse_neighbour(message); neighbour && neighbour->ifindex == ifindex)
        neighbours.push_back(*neighbour);
    });
  }
  return neighbours;
}

std::vector<InterfaceIp> RouteSocket::addresses() {
  Request request(RTM_GETADDR, NLM_F_DUMP);
  request.extra<ifaddrmsg>();
  std::vector<InterfaceIp> addresses;
  talk(request.message(), [&](const nlmsghdr* message) {
    if (const auto address = parse_address(message)) addresses.push_back(*address);
  });
  return addresses;
}

std::optional<Route> RouteSocket::route_to(const IpAddress& destination, const std::optional<IpAddress>& source) {
  Request request(RTM_GETROUTE, 0);
  auto& header = request.extra<rtmsg>();
  header.rtm_family = family_of(destination);
  header.rtm_dst_len = destination.is_v4() ? 32 : 128;
  request.put(RTA_DST, destination);
  if (source && source->is_v4() == destination.is_v4()) {
    header.rtm_src_len = header.rtm_dst_len;
    request.put(RTA_SRC, *source);
  }
  std::optional<Route> route;
  const int error = talk(request.message(), [&](const nlmsghdr* message) { route = parse_route(message); });
  // A source that is not (yet) ours is refused; the route without it is then the best answer.
  if (error == EINVAL && source) return route_to(destination, std::nullopt);
  return route;
}

std::vector<BridgeVlan> RouteSocket::bridge_vlans(int ifindex) { return all_bridge_vlans()[ifindex]; }

std::map<int, std::vector<BridgeVlan>> RouteSocket::all_bridge_vlans() {
  Request request(RTM_GETLINK, NLM_F_DUMP);
  auto& header = request.extra<ifinfomsg>();
  header.ifi_family = AF_BRIDGE;
  request.put_u32(IFLA_EXT_MASK, RTEXT_FILTER_BRVLAN_COMPRESSED);
  std::map<int, std::vector<BridgeVlan>> vlans;
  talk(request.message(), [&](const nlmsghdr* message) {
    if (mnl_nlmsg_get_payload_len(message) < sizeof(ifinfomsg)) return;
    auto one = parse_bridge_vlans(message);
    if (!one.empty()) vlans[static_cast<const ifinfomsg*>(mnl_nlmsg_get_payload(message))->ifi_index] = std::move(one);
  });
  return vlans;
}

std::set<int> RouteSocket::ingress_qdiscs() {
  Request request(RTM_GETQDISC, NLM_F_DUMP);
  request.extra<tcmsg>();
  std::set<int> found;
  talk(request.message(), [&](const nlmsghdr* message) {
    if (message->nlmsg_type != RTM_NEWQDISC || mnl_nlmsg_get_payload_len(message) < sizeof(tcmsg)) return;
    const auto is_ingress = [](const nlattr* attribute, void* data) {
      if (mnl_attr_get_type(attribute) == TCA_KIND)
        *static_cast<bool*>(data) = std::strcmp(mnl_attr_get_str(attribute), "ingress") == 0;
      return MNL_CB_OK;
    };
    bool is_found = false;
    mnl_attr_parse(message, sizeof(tcmsg), is_ingress, &is_found);
    if (is_found) found.insert(static_cast<const tcmsg*>(mnl_nlmsg_get_payload(message))->tcm_ifindex);
  });
  return found;
}

int RouteSocket::use_neighbour(int ifindex, const IpAddress& address) {
  Request request(RTM_NEWNEIGH, NLM_F_ACK | NLM_F_CREATE);
  auto& header = request.extra<ndmsg>();
  header.ndm_family = family_of(address);
  header.ndm_ifindex = ifindex;
  header.ndm_state = NUD_NONE;
  header.ndm_flags = NTF_USE;
  request.put(NDA_DST, address);
  return talk(request.message(), nullptr);
}

int RouteSocket::probe_neighbour(int ifindex, const IpAddress& address) {
  Request request(RTM_NEWNEIGH, NLM_F_ACK | NLM_F_REPLACE);
  auto& header = request.extra<ndmsg>();
  header.ndm_family = family_of(address);
  header.ndm_ifindex = ifindex;
  header.ndm_state = NUD_PROBE;
  request.put(NDA_DST, address);
  return talk(request.message(), nullptr);
}

int RouteSocket::delete_link(int ifindex) {
  Request request(RTM_DELLINK, NLM_F_ACK);
  request.extra<ifinfomsg>().ifi_index = ifindex;
  return talk(request.message(), nullptr);
}

int RouteSocket::set_master(int ifindex, int master) {
  Request request(RTM_NEWLINK, NLM_F_ACK);
  request.extra<ifinfomsg>().ifi_index = ifindex;
  request.put_u32(IFLA_MASTER, static_cast<std::uint32_t>(master));
  return talk(request.message(), nullptr);
}

int RouteSocket::set_mtu(int ifindex, std::uint32_t mtu) {
  Request request(RTM_NEWLINK, NLM_F_ACK);
  request.extra<ifinfomsg>().ifi_index = ifindex;
  request.put_u32(IFLA_MTU, mtu);
  return talk(request.message(), nullptr);
}

int RouteSocket::set_up(int ifindex) {
  Request request(RTM_NEWLINK, NLM_F_ACK);
  auto& header = request.extra<ifinfomsg>();
  header.ifi_index = ifindex;
  header.ifi_flags = header.ifi_change = IFF_UP;
  return talk(request.message(), nullptr);
}

namespace {
void put_bridge_vlan(Request& request, int ifindex, BridgeVlan vlan) {
  auto& header = request.extra<ifinfomsg>();
  header.ifi_family = AF_BRIDGE;
  header.ifi_index = ifindex;
  nlattr* spec = mnl_attr_nest_start(request.message(), IFLA_AF_SPEC);
  const bridge_vlan_info info{vlan.flags, vlan.vid};
  mnl_attr_put(request.message(), IFLA_BRIDGE_VLAN_INFO, sizeof info, &info);
  mnl_attr_nest_end(request.message(), spec);
}
}  // namespace

int RouteSocket::add_bridge_vlan(int ifindex, BridgeVlan vlan) {
  Request request(RTM_SETLINK, NLM_F_ACK);
  put_bridge_vlan(request, ifindex, vlan);
  return talk(request.message(), nullptr);
}

int RouteSocket::delete_bridge_vlan(int ifindex, std::uint16_t vid) {
  Request request(RTM_DELLINK, NLM_F_ACK);
  put_bridge_vlan(request, ifindex, {vid, 0});
  return talk(request.message(), nullptr);
}

bool RouteSocket::read_events(const OnMessage& on_message) {
  std::vector<char> buffer(kReceiveBytes);
  bool is_lost = false;
  for (;;) {
    const auto got = mnl_socket_recvfrom(events_, buffer.data(), buffer.size());
    // What still waits is older than the answers to the questions that follow.
    if (got < 0 && errno == ENOBUFS) {
      is_lost = true;
      continue;
    }
    if (got < 0) return !is_lost;
    int remaining = static_cast<int>(got);
    for (auto* message = reinterpret_cast<nlmsghdr*>(buffer.data()); mnl_nlmsg_ok(message, remaining);
         message = mnl_nlmsg_next(message, &remaining))
      on_message(message);
  }
}

}  // namespace vx::control
