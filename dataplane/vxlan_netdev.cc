// SPDX-License-Identifier: Apache-2.0
#include "dataplane/vxlan_netdev.h"

#include <linux/if_link.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <sys/socket.h>

#include <algorithm>
#include <cstring>
#include <new>
#include <span>
#include <string_view>

#include "dataplane/file_descriptor.h"
#include "dataplane/wire.h"

namespace vx {
namespace {

constexpr std::size_t kAnswerBytes = 32 * 1024;

using Bytes = std::span<const char>;

// Content of the attribute `type`; empty: it is not there.
Bytes attribute(Bytes list, unsigned type) noexcept {
  while (list.size() >= sizeof(rtattr)) {
    rtattr head;
    std::memcpy(&head, list.data(), sizeof head);
    if (head.rta_len < sizeof head || head.rta_len > list.size()) break;
    if ((head.rta_type & NLA_TYPE_MASK) == type) return list.subspan(sizeof head, head.rta_len - sizeof head);
    list = list.subspan(std::min<std::size_t>(RTA_ALIGN(head.rta_len), list.size()));
  }
  return {};
}

std::string_view text(Bytes bytes) noexcept {
  return bytes.empty() ? std::string_view() : std::string_view(bytes.data(), strnlen(bytes.data(), bytes.size()));
}

bool is_on(Bytes link, std::uint16_t udp_port) noexcept {
  const Bytes info = attribute(link, IFLA_LINKINFO);
  if (text(attribute(info, IFLA_INFO_KIND)) != "vxlan") return false;
  const Bytes port = attribute(attribute(info, IFLA_INFO_DATA), IFLA_VXLAN_PORT);
  const std::uint16_t raw = Be16(udp_port).raw();
  return port.size() == sizeof raw && std::memcmp(port.data(), &raw, sizeof raw) == 0;
}

}  // namespace

std::string vxlan_netdev_on(std::uint16_t udp_port) noexcept {
  try {
    const FileDescriptor fd(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE));
    struct {
      nlmsghdr header;
      ifinfomsg link;
    } request{};
    request.header.nlmsg_len = sizeof request;
    request.header.nlmsg_type = RTM_GETLINK;
    request.header.nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP;
    if (!fd || ::send(fd.get(), &request, sizeof request, 0) < 0) return {};
    std::string answer(kAnswerBytes, '\0');
    while (true) {
      const ssize_t got = ::recv(fd.get(), answer.data(), answer.size(), 0);
      if (got <= 0) return {};
      Bytes left(answer.data(), static_cast<std::size_t>(got));
      while (left.size() >= sizeof(nlmsghdr)) {
        nlmsghdr header;
        std::memcpy(&header, left.data(), sizeof header);
        if (header.nlmsg_type != RTM_NEWLINK || header.nlmsg_len > left.size() ||
            header.nlmsg_len < NLMSG_LENGTH(sizeof(ifinfomsg)))
          return {};  // the end, or an error
        const Bytes link =
            left.subspan(NLMSG_SPACE(sizeof(ifinfomsg)), header.nlmsg_len - NLMSG_SPACE(sizeof(ifinfomsg)));
        if (is_on(link, udp_port)) return std::string(text(attribute(link, IFLA_IFNAME)));
        left = left.subspan(std::min<std::size_t>(NLMSG_ALIGN(header.nlmsg_len), left.size()));
      }
    }
  } catch (const std::bad_alloc&) {
    return {};
  }
}

}  // namespace vx
