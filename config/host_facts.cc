// SPDX-License-Identifier: Apache-2.0
// What the live machine says about itself. Reads only; a question about a route connects a UDP
// socket, which makes the kernel look the route up and sends nothing.
#include "config/host_facts.h"

#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <fstream>

#include "config/values.h"

namespace vx::config {
namespace {

class Socket {
 public:
  explicit Socket(int family) : fd_(socket(family, SOCK_DGRAM | SOCK_CLOEXEC, 0)) {}
  ~Socket() {
    if (fd_ >= 0) close(fd_);
  }
  Socket(const Socket&) = delete;
  Socket& operator=(const Socket&) = delete;
  [[nodiscard]] int fd() const { return fd_; }

 private:
  int fd_;
};

std::optional<IpAddress> ip_of(const sockaddr* address) {
  if (address == nullptr) return std::nullopt;
  if (address->sa_family == AF_INET) {
    sockaddr_in v4{};
    std::memcpy(&v4, address, sizeof v4);
    return IpAddress::from_v4_bytes(&v4.sin_addr);
  }
  if (address->sa_family == AF_INET6) {
    sockaddr_in6 v6{};
    std::memcpy(&v6, address, sizeof v6);
    return IpAddress::from_v6_bytes(&v6.sin6_addr);
  }
  return std::nullopt;
}

unsigned prefix_of(const IpAddress& mask, bool is_v4) {
  unsigned bits = 0;
  for (std::size_t i = is_v4 ? 12 : 0; i < 16; ++i)
    bits += static_cast<unsigned>(__builtin_popcount(mask.bytes[i]));
  return bits;
}

std::uint16_t mtu_of(const std::string& name) {
  const Socket socket(AF_INET);
  ifreq request{};
  name.copy(request.ifr_name, IFNAMSIZ - 1);
  if (ioctl(socket.fd(), SIOCGIFMTU, &request) != 0) return 0;
  return static_cast<std::uint16_t>(std::clamp(request.ifr_mtu, 0, 65535));
}

// /proc/net/vlan/NAME: "NAME  VID: 4003 ..." and "Device: enp35s0"; absent without 802.1q.
void read_vlan(HostInterface& interface) {
  std::ifstream file("/proc/net/vlan/" + interface.name);
  for (std::string line; std::getline(file, line);) {
    const std::vector<std::string> words = split_words(line);
    for (std::size_t i = 0; i + 1 < words.size(); ++i) {
      if (words[i] == "VID:" && !read_number(words[i + 1], 1, kMaxVid, interface.vid).empty())
        return;
      if (words[i] == "Device:") interface.raw_device = words[i + 1];
    }
  }
}

std::vector<HostInterface> live_interfaces() {
  std::vector<HostInterface> found;
  ifaddrs* list = nullptr;
  if (getifaddrs(&list) != 0) return found;
  for (const ifaddrs* entry = list; entry != nullptr; entry = entry->ifa_next) {
    auto it = std::find_if(found.begin(), found.end(),
                           [&](const HostInterface& i) { return i.name == entry->ifa_name; });
    if (it == found.end()) {
      it = found.insert(found.end(), HostInterface{});
      it->name = entry->ifa_name;
      it->mtu = mtu_of(it->name);
      read_vlan(*it);
    }
    const auto ip = ip_of(entry->ifa_addr);
    const auto mask = ip_of(entry->ifa_netmask);
    if (ip && mask) it->addresses.push_back({*ip, prefix_of(*mask, ip->is_v4())});
  }
  freeifaddrs(list);
  return found;
}

std::optional<IpAddress> live_route_source(const IpAddress& remote) {
  const bool is_v4 = remote.is_v4();
  sockaddr_storage to{};
  socklen_t length = 0;
  constexpr std::uint16_t kAnyPort = 9;  // discard; nothing is sent
  if (is_v4) {
    sockaddr_in v4{};
    v4.sin_family = AF_INET;
    v4.sin_port = htons(kAnyPort);
    std::memcpy(&v4.sin_addr, remote.v4_bytes(), 4);
    std::memcpy(&to, &v4, length = sizeof v4);
  } else {
    sockaddr_in6 v6{};
    v6.sin6_family = AF_INET6;
    v6.sin6_port = htons(kAnyPort);
    std::memcpy(&v6.sin6_addr, remote.bytes.data(), 16);
    std::memcpy(&to, &v6, length = sizeof v6);
  }
  const Socket socket(is_v4 ? AF_INET : AF_INET6);
  sockaddr_storage from{};
  socklen_t from_length = sizeof from;
  if (connect(socket.fd(), reinterpret_cast<const sockaddr*>(&to), length) != 0)
    return std::nullopt;
  if (getsockname(socket.fd(), reinterpret_cast<sockaddr*>(&from), &from_length) != 0)
    return std::nullopt;
  return ip_of(reinterpret_cast<const sockaddr*>(&from));
}

}  // namespace

HostFacts live_host_facts() { return {live_interfaces, live_route_source}; }

}  // namespace vx::config
