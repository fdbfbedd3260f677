// SPDX-License-Identifier: Apache-2.0
#include "dataplane/udp_sockets.h"

#include <linux/filter.h>
#include <netinet/in.h>
#include <netinet/ip.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <new>

namespace vx {
namespace {

constexpr int kSendBufferBytes = 8 << 20;
constexpr unsigned kPortsOfSlot = 256;
constexpr unsigned kTriedPorts = 64;

bool set(int fd, int level, int option, int value) noexcept {
  return ::setsockopt(fd, level, option, &value, sizeof value) == 0;
}

// Nobody sends to these ports; what comes nevertheless is not kept. ICMP errors still reach the socket.
bool refuse_all(int fd) noexcept {
  sock_filter drop = BPF_STMT(BPF_RET | BPF_K, 0);
  const sock_fprog program{1, &drop};
  return ::setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program) == 0;
}

// FREEBIND: an address that goes and comes again needs no new socket.
bool prepare(int fd, bool is_v4) noexcept {
  if (!set(fd, SOL_SOCKET, SO_SNDBUFFORCE, kSendBufferBytes)) (void)set(fd, SOL_SOCKET, SO_SNDBUF, kSendBufferBytes);
  if (!refuse_all(fd)) return false;
  if (is_v4) return set(fd, IPPROTO_IP, IP_FREEBIND, 1) && set(fd, IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DO);
  return set(fd, IPPROTO_IPV6, IPV6_V6ONLY, 1) && set(fd, IPPROTO_IPV6, IPV6_FREEBIND, 1) &&
         set(fd, IPPROTO_IPV6, IPV6_MTU_DISCOVER, IPV6_PMTUDISC_DO) && set(fd, IPPROTO_IPV6, IPV6_DONTFRAG, 1);
}

bool bind_to(int fd, const IpAddress& local, std::uint16_t port) noexcept {
  if (local.is_v4()) {
    sockaddr_in in{};
    in.sin_family = AF_INET;
    in.sin_port = Be16(port).raw();
    std::memcpy(&in.sin_addr, local.v4_bytes(), sizeof in.sin_addr);
    return ::bind(fd, reinterpret_cast<const sockaddr*>(&in), sizeof in) == 0;
  }
  sockaddr_in6 in6{};
  in6.sin6_family = AF_INET6;
  in6.sin6_port = Be16(port).raw();
  std::memcpy(&in6.sin6_addr, local.bytes.data(), sizeof in6.sin6_addr);
  return ::bind(fd, reinterpret_cast<const sockaddr*>(&in6), sizeof in6) == 0;
}

}  // namespace

int UdpSocket::open(const IpAddress& local, std::uint16_t wanted_port) noexcept {
  is_v4_ = local.is_v4();
  FileDescriptor fd(::socket(is_v4_ ? AF_INET : AF_INET6, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!fd || !prepare(fd.get(), is_v4_)) return errno;
  for (unsigned i = 0; i < kTriedPorts; ++i) {
    const auto port =
        static_cast<std::uint16_t>((wanted_port & ~(kPortsOfSlot - 1)) | ((wanted_port + i) & (kPortsOfSlot - 1)));
    if (bind_to(fd.get(), local, port)) {
      fd_ = std::move(fd);
      return 0;
    }
    if (errno != EADDRINUSE) break;
  }
  return errno;
}

void UdpSocket::use(std::uint8_t ttl, bool checksum) noexcept {
  if (ttl != ttl_) [[unlikely]] {
    ttl_ = ttl;
    (void)(is_v4_ ? set(fd(), IPPROTO_IP, IP_TTL, ttl) : set(fd(), IPPROTO_IPV6, IPV6_UNICAST_HOPS, ttl));
  }
  if (checksum != checksum_ && is_v4_) [[unlikely]] {  // IPv6 has no datagrams without one (RFC 8200 section 8.1)
    checksum_ = checksum;
    (void)set(fd(), SOL_SOCKET, SO_NO_CHECK, checksum ? 0 : 1);
  }
}

UdpSocket* UdpSockets::find(const IpAddress& local, std::uint16_t source_port, int& error) noexcept {
  auto at = std::find_if(locals_.begin(), locals_.end(), [&](const auto& l) { return l->address == local; });
  if (at == locals_.end()) [[unlikely]] {
    try {
      if (locals_.size() >= kMostLocals) locals_.erase(locals_.begin());
      locals_.push_back(std::make_unique<Local>());
    } catch (const std::bad_alloc&) {
      error = ENOMEM;
      return nullptr;
    }
    at = locals_.end() - 1;
    (*at)->address = local;
  }
  UdpSocket& socket = (*at)->sockets[slot_of(source_port)];
  if (!socket.is_open()) [[unlikely]] {
    error = socket.open(local, source_port);
    if (error != 0) return nullptr;
  }
  return &socket;
}

}  // namespace vx
