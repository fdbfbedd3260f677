// SPDX-License-Identifier: Apache-2.0
#include "bench/link_socket.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <ifaddrs.h>
#include <linux/sock_diag.h>
#include <net/if.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/ioctl.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>

namespace vx::bench {
namespace {

constexpr int kConnectMs = 3000;
constexpr int kUdpBufferBytes = 8 << 20;

[[noreturn]] void fail(const std::string& what) { throw LinkError(fmt::format("{}: {}", what, std::strerror(errno))); }

void set(int fd, int level, int option, int value) {
  if (setsockopt(fd, level, option, &value, sizeof value) != 0) fail("setsockopt");
}

FileDescriptor open(int family, int type) {
  FileDescriptor fd(socket(family, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!fd) fail("socket");
  return fd;
}

}  // namespace

Address::Address(const sockaddr_storage& storage, socklen_t length) : storage_(storage), length_(length) {
  const auto* v6 = reinterpret_cast<const sockaddr_in6*>(&storage);
  if (family() != AF_INET6 || !IN6_IS_ADDR_V4MAPPED(&v6->sin6_addr)) return;
  sockaddr_in v4{};
  v4.sin_family = AF_INET;
  v4.sin_port = v6->sin6_port;
  std::memcpy(&v4.sin_addr, v6->sin6_addr.s6_addr + 12, 4);
  storage_ = {};
  std::memcpy(&storage_, &v4, sizeof v4);
  length_ = sizeof v4;
}

Address Address::resolve(const std::string& host, std::uint16_t port, bool is_passive) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = is_passive ? AI_PASSIVE : 0;
  addrinfo* found = nullptr;
  const int error = getaddrinfo(host.c_str(), std::to_string(port).c_str(), &hints, &found);
  if (error != 0) throw LinkError(fmt::format("{}: {}", host, gai_strerror(error)));
  const std::unique_ptr<addrinfo, decltype(&freeaddrinfo)> owner(found, freeaddrinfo);
  sockaddr_storage storage{};
  std::memcpy(&storage, found->ai_addr, found->ai_addrlen);
  return {storage, found->ai_addrlen};
}

std::uint16_t Address::port() const {
  return ntohs(is_v6() ? reinterpret_cast<const sockaddr_in6*>(&storage_)->sin6_port : reinterpret_cast<const sockaddr_in*>(&storage_)->sin_port);
}

Address Address::with_port(std::uint16_t port) const {
  Address out = *this;
  (is_v6() ? reinterpret_cast<sockaddr_in6*>(&out.storage_)->sin6_port : reinterpret_cast<sockaddr_in*>(&out.storage_)->sin_port) = htons(port);
  return out;
}

std::string Address::host() const {
  char text[NI_MAXHOST] = "?";
  getnameinfo(get(), length_, text, sizeof text, nullptr, 0, NI_NUMERICHOST);
  return text;
}

bool Address::is_same_host(const Address& other) const {
  if (family() != other.family()) return false;
  if (!is_v6()) return reinterpret_cast<const sockaddr_in*>(&storage_)->sin_addr.s_addr == reinterpret_cast<const sockaddr_in*>(&other.storage_)->sin_addr.s_addr;
  const auto *one = reinterpret_cast<const sockaddr_in6*>(&storage_), *two = reinterpret_cast<const sockaddr_in6*>(&other.storage_);
  return std::memcmp(&one->sin6_addr, &two->sin6_addr, 16) == 0 && one->sin6_scope_id == two->sin6_scope_id;
}

Address local_address(int fd) {
  sockaddr_storage storage{};
  socklen_t length = sizeof storage;
  if (getsockname(fd, reinterpret_cast<sockaddr*>(&storage), &length) != 0) fail("getsockname");
  return {storage, length};
}

Address peer_address(int fd) {
  sockaddr_storage storage{};
  socklen_t length = sizeof storage;
  if (getpeername(fd, reinterpret_cast<sockaddr*>(&storage), &length) != 0) fail("getpeername");
  return {storage, length};
}

FileDescriptor listen_tcp(const Address& at) {
  FileDescriptor fd = open(at.family(), SOCK_STREAM);
  set(fd.get(), SOL_SOCKET, SO_REUSEADDR, 1);
  if (at.is_v6()) set(fd.get(), IPPROTO_IPV6, IPV6_V6ONLY, 0);
  if (bind(fd.get(), at.get(), at.length()) != 0 || listen(fd.get(), 16) != 0) fail(fmt::format("{} port {}", at.host(), at.port()));
  return fd;
}

FileDescriptor connect_tcp(const Address& to, const std::optional<Address>& local) {
  FileDescriptor fd = open(to.family(), SOCK_STREAM);
  const std::string whom = fmt::format("{} port {}", to.host(), to.port());
  if (local && bind(fd.get(), local->get(), local->length()) != 0) fail(fmt::format("bind to {}", local->host()));
  set(fd.get(), IPPROTO_TCP, TCP_NODELAY, 1);
  if (connect(fd.get(), to.get(), to.length()) == 0) return fd;
  if (errno != EINPROGRESS) fail(whom);
  pollfd wait{fd.get(), POLLOUT, 0};
  int error = 0, polled = 0;
  while ((polled = poll(&wait, 1, kConnectMs)) < 0 && errno == EINTR) {
  }
  if (polled == 0) throw LinkError(fmt::format("{}: no answer in {} s", whom, kConnectMs / 1000));
  socklen_t length = sizeof error;
  getsockopt(fd.get(), SOL_SOCKET, SO_ERROR, &error, &length);
  if (error != 0) {
    errno = error;
    fail(whom);
  }
  return fd;
}

FileDescriptor open_udp(const Address& local) {
  FileDescriptor fd = open(local.family(), SOCK_DGRAM);
  if (local.is_v6()) {
    set(fd.get(), IPPROTO_IPV6, IPV6_V6ONLY, 1);
    set(fd.get(), IPPROTO_IPV6, IPV6_MTU_DISCOVER, IPV6_PMTUDISC_PROBE);
    set(fd.get(), IPPROTO_IPV6, IPV6_DONTFRAG, 1);
  } else {
    set(fd.get(), IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_PROBE);
  }
  // FORCE is root's; others get what net.core.rmem_max allows, and dropped_by_socket() says whether it was enough.
  for (const int option : {SO_RCVBUFFORCE, SO_SNDBUFFORCE})
    if (setsockopt(fd.get(), SOL_SOCKET, option, &kUdpBufferBytes, sizeof kUdpBufferBytes) != 0)
      set(fd.get(), SOL_SOCKET, option == SO_RCVBUFFORCE ? SO_RCVBUF : SO_SNDBUF, kUdpBufferBytes);
  if (bind(fd.get(), local.get(), local.length()) != 0) fail(fmt::format("UDP {} port {}", local.host(), local.port()));
  return fd;
}

std::uint64_t dropped_by_socket(int fd) {
  std::uint32_t memory[SK_MEMINFO_VARS] = {};
  socklen_t length = sizeof memory;
  return getsockopt(fd, SOL_SOCKET, SO_MEMINFO, memory, &length) == 0 ? memory[SK_MEMINFO_DROPS] : 0;
}

Interface interface_of(const Address& address) {
  Interface out{"", 65535};
  ifaddrs* first = nullptr;
  if (getifaddrs(&first) != 0) return out;
  const std::unique_ptr<ifaddrs, decltype(&freeifaddrs)> owner(first, freeifaddrs);
  for (const ifaddrs* one = first; one != nullptr; one = one->ifa_next) {
    if (one->ifa_addr == nullptr || one->ifa_addr->sa_family != address.family()) continue;
    sockaddr_storage storage{};
    const socklen_t length = address.is_v6() ? sizeof(sockaddr_in6) : sizeof(sockaddr_in);
    std::memcpy(&storage, one->ifa_addr, length);
    if (!Address(storage, length).is_same_host(address)) continue;
    ifreq request{};
    std::string_view(one->ifa_name).copy(request.ifr_name, sizeof request.ifr_name - 1);
    const FileDescriptor any(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    if (ioctl(any.get(), SIOCGIFMTU, &request) == 0) out = {one->ifa_name, std::min(static_cast<unsigned>(request.ifr_mtu), 65535U)};
    break;
  }
  return out;
}

}  // namespace vx::bench
