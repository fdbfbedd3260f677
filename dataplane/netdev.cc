// SPDX-License-Identifier: Apache-2.0
#include "dataplane/netdev.h"

#include <linux/ethtool.h>
#include <linux/if_link.h>
#include <linux/rtnetlink.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <system_error>
#include <vector>

#include "dataplane/file_descriptor.h"
#include "dataplane/log.h"

namespace vx {

void throw_errno(const std::string& name, const std::string& what) {
  throw std::system_error(errno, std::generic_category(), name + ": " + what);
}

namespace netdev {
namespace {

// One ioctl on the netdev; false with errno set.
bool control(const std::string& name, unsigned long request, ifreq& ifr) noexcept {
  if (name.size() >= IFNAMSIZ) {
    errno = ENODEV;
    return false;
  }
  std::memcpy(ifr.ifr_name, name.c_str(), name.size() + 1);
  FileDescriptor fd(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  return fd && ::ioctl(fd.get(), request, &ifr) == 0;
}

bool ethtool(const std::string& name, void* command) noexcept {
  ifreq ifr{};
  ifr.ifr_data = static_cast<char*>(command);
  return control(name, SIOCETHTOOL, ifr);
}

// One rtnetlink request for a link, its answer in `reply`; false with errno set.
struct LinkMessage {
  nlmsghdr header{};
  ifinfomsg link{};
  char attributes[512]{};
};
bool link_request(LinkMessage& message, std::vector<char>& reply) noexcept {
  FileDescriptor fd(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE));
  if (!fd || ::send(fd.get(), &message, message.header.nlmsg_len, 0) < 0) return false;
  reply.resize(32 * 1024);
  const ssize_t n = ::recv(fd.get(), reply.data(), reply.size(), 0);
  if (n < static_cast<ssize_t>(sizeof(nlmsghdr))) return false;
  reply.resize(static_cast<std::size_t>(n));
  nlmsghdr header;
  std::memcpy(&header, reply.data(), sizeof header);
  if (header.nlmsg_type != NLMSG_ERROR) return true;
  nlmsgerr error;
  std::memcpy(&error, reply.data() + NLMSG_HDRLEN, sizeof error);
  errno = -error.error;
  return error.error == 0;
}

// Sets one attribute of a link; false with errno set.
bool set_attribute(std::uint32_t ifindex, unsigned short type, const void* value, std::size_t bytes) noexcept {
  LinkMessage message;
  if (RTA_LENGTH(bytes) > sizeof message.attributes) {
    errno = EMSGSIZE;
    return false;
  }
  const rtattr attribute{static_cast<unsigned short>(RTA_LENGTH(bytes)), type};
  std::memcpy(message.attributes, &attribute, sizeof attribute);
  std::memcpy(message.attributes + RTA_LENGTH(0), value, bytes);
  message.header.nlmsg_len = static_cast<__u32>(NLMSG_SPACE(sizeof(ifinfomsg)) + attribute.rta_len);
  message.header.nlmsg_type = RTM_SETLINK;
  message.header.nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK;
  message.link.ifi_index = static_cast<int>(ifindex);
  std::vector<char> reply;
  return link_request(message, reply);
}

// No IPv6 address of the kernel's own making, without which it solicits nothing either.
bool set_no_addresses(std::uint32_t ifindex) noexcept {
  struct {
    rtattr inet6{sizeof(rtattr) + RTA_LENGTH(1), AF_INET6};
    rtattr mode{RTA_LENGTH(1), IFLA_INET6_ADDR_GEN_MODE};
    std::uint8_t value[4]{IN6_ADDR_GEN_MODE_NONE};
  } spec;
  return set_attribute(ifindex, IFLA_AF_SPEC, &spec, sizeof spec);
}

}  // namespace

std::uint32_t index(const std::string& name) noexcept { return ::if_nametoindex(name.c_str()); }

MacAddress mac(const std::string& name) {
  ifreq ifr{};
  if (!control(name, SIOCGIFHWADDR, ifr)) throw_errno(name, "cannot read its MAC address");
  MacAddress result;
  std::memcpy(result.bytes.data(), ifr.ifr_hwaddr.sa_data, result.bytes.size());
  return result;
}

void set_mtu(const std::string& name, unsigned mtu) {
  ifreq ifr{};
  ifr.ifr_mtu = static_cast<int>(mtu);
  if (!control(name, SIOCSIFMTU, ifr)) throw_errno(name, "cannot set MTU " + std::to_string(mtu));
}

void set_up(const std::string& name) {
  ifreq ifr{};
  if (!control(name, SIOCGIFFLAGS, ifr)) throw_errno(name, "cannot read its flags");
  if ((ifr.ifr_flags & IFF_UP) != 0) return;
  ifr.ifr_flags = static_cast<short>(ifr.ifr_flags | IFF_UP);
  if (!control(name, SIOCSIFFLAGS, ifr)) throw_errno(name, "cannot set the link up");
}

void silence(const std::string& name) noexcept {
  const bool has_no_addresses = set_no_addresses(index(name));
  if (!has_no_addresses && errno == EAFNOSUPPORT) return;  // no IPv6 here
  const int error = errno;
  std::ofstream sysctl("/proc/sys/net/ipv6/conf/" + name + "/disable_ipv6");
  sysctl << 1 << std::flush;  // read-only to a service with ProtectKernelTunables
  if (!has_no_addresses && !sysctl) log_warning("{}: cannot keep IPv6 from it: {}", name, std::strerror(error));
}

Channels channels(const std::string& name) noexcept {
  ethtool_channels c{};
  c.cmd = ETHTOOL_GCHANNELS;
  Channels result;
  if (!ethtool(name, &c)) return result;
  if (c.max_combined != 0 && c.combined_count != 0) result.combined = c.combined_count;
  result.rx = c.combined_count + c.rx_count;
  if (result.rx == 0) result.rx = 1;
  return result;
}

bool rxvlan(const std::string& name) noexcept {
  ethtool_value value{};
  value.cmd = ETHTOOL_GFLAGS;
  return ethtool(name, &value) && (value.data & ETH_FLAG_RXVLAN) != 0;
}

bool set_rxvlan(const std::string& name, bool on) noexcept {
  ethtool_value value{};
  value.cmd = ETHTOOL_GFLAGS;
  if (!ethtool(name, &value)) return false;
  value.cmd = ETHTOOL_SFLAGS;
  value.data = on ? value.data | ETH_FLAG_RXVLAN : value.data & ~static_cast<__u32>(ETH_FLAG_RXVLAN);
  return ethtool(name, &value) && rxvlan(name) == on;
}

std::string alias(std::uint32_t ifindex) {
  LinkMessage message;
  message.header.nlmsg_len = NLMSG_LENGTH(sizeof(ifinfomsg));
  message.header.nlmsg_type = RTM_GETLINK;
  message.header.nlmsg_flags = NLM_F_REQUEST;
  message.link.ifi_index = static_cast<int>(ifindex);
  std::vector<char> reply;
  if (!link_request(message, reply)) return {};
  for (std::size_t at = NLMSG_SPACE(sizeof(ifinfomsg)); at + sizeof(rtattr) <= reply.size();) {
    rtattr attribute;
    std::memcpy(&attribute, reply.data() + at, sizeof attribute);
    if (attribute.rta_len < sizeof attribute || at + attribute.rta_len > reply.size()) break;
    if (attribute.rta_type == IFLA_IFALIAS) {
      const char* text = reply.data() + at + RTA_LENGTH(0);
      return {text, ::strnlen(text, attribute.rta_len - RTA_LENGTH(0))};
    }
    at += RTA_ALIGN(attribute.rta_len);
  }
  return {};
}

bool set_alias(std::uint32_t ifindex, const std::string& text) noexcept {
  return set_attribute(ifindex, IFLA_IFALIAS, text.c_str(), text.size() + 1);
}

}  // namespace netdev
}  // namespace vx
