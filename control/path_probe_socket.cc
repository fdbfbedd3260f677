// SPDX-License-Identifier: Apache-2.0
#include "control/path_probe_socket.h"

#include <linux/icmp.h>
#include <netinet/icmp6.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <system_error>

namespace vx::control {

namespace {

constexpr unsigned kMessagesAtOnce = 256;

struct SocketAddress {
  sockaddr_storage storage{};
  socklen_t length = 0;
};
SocketAddress socket_address(const IpAddress& ip) {
  SocketAddress out;
  if (ip.is_v4()) {
    sockaddr_in v4{};
    v4.sin_family = AF_INET;
    std::memcpy(&v4.sin_addr, ip.v4_bytes(), 4);
    std::memcpy(&out.storage, &v4, out.length = sizeof v4);
  } else {
    sockaddr_in6 v6{};
    v6.sin6_family = AF_INET6;
    std::memcpy(&v6.sin6_addr, ip.bytes.data(), 16);
    std::memcpy(&out.storage, &v6, out.length = sizeof v6);
  }
  return out;
}

void set(int fd, int level, int option, int value) { (void)setsockopt(fd, level, option, &value, sizeof value); }

// Only echo replies are worth waking up for; a raw socket sees all ICMP of the host.
void filter(int fd, bool is_v6) {
  if (is_v6) {
    icmp6_filter only;
    ICMP6_FILTER_SETBLOCKALL(&only);
    ICMP6_FILTER_SETPASS(ICMP6_ECHO_REPLY, &only);
    (void)setsockopt(fd, IPPROTO_ICMPV6, ICMP6_FILTER, &only, sizeof only);
  } else {
    icmp_filter only{};
    only.data = ~(1u << ICMP_ECHOREPLY);
    (void)setsockopt(fd, SOL_RAW, ICMP_FILTER, &only, sizeof only);
  }
}

}  // namespace

EchoSocket::EchoSocket(const IpAddress& local) : is_v6_(!local.is_v4()) {
  const int family = is_v6_ ? AF_INET6 : AF_INET, protocol = is_v6_ ? static_cast<int>(IPPROTO_ICMPV6) : static_cast<int>(IPPROTO_ICMP);
  constexpr int kFlags = SOCK_NONBLOCK | SOCK_CLOEXEC;
  fd_ = socket(family, SOCK_RAW | kFlags, protocol);
  is_raw_ = fd_ >= 0;
  if (!is_raw_) fd_ = socket(family, SOCK_DGRAM | kFlags, protocol);  // net.ipv4.ping_group_range may allow that
  if (fd_ < 0) throw std::system_error(errno, std::generic_category(), "no socket for ICMP echo");
  if (is_raw_) filter(fd_, is_v6_);
  if (is_v6_) {
    set(fd_, IPPROTO_IPV6, IPV6_MTU_DISCOVER, IPV6_PMTUDISC_PROBE);
    set(fd_, IPPROTO_IPV6, IPV6_DONTFRAG, 1);
  } else {
    set(fd_, IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_PROBE);
  }
  const SocketAddress address = socket_address(local);
  if (bind(fd_, reinterpret_cast<const sockaddr*>(&address.storage), address.length) != 0) {
    const int error = errno;
    close(fd_);
    throw std::system_error(error, std::generic_category(), "ICMP echo: bind");
  }
}

EchoSocket::~EchoSocket() { close(fd_); }

ProbeSent EchoSocket::send(const IpAddress& remote, std::span<const std::uint8_t> message) noexcept {
  const SocketAddress address = socket_address(remote);
  const auto sent = sendto(fd_, message.data(), message.size(), MSG_NOSIGNAL, reinterpret_cast<const sockaddr*>(&address.storage), address.length);
  if (sent >= 0) return ProbeSent::kSent;
  if (errno == EMSGSIZE) return ProbeSent::kTooLarge;
  return errno == EINVAL || errno == EADDRNOTAVAIL ? ProbeSent::kFailed : ProbeSent::kSent;
}

std::vector<ProbeId> EchoSocket::receive() {
  std::vector<ProbeId> answers;
  std::uint8_t bytes[512];  // the rest of a large one does not matter
  for (unsigned i = 0; i < kMessagesAtOnce; ++i) {
    const auto got = recv(fd_, bytes, sizeof bytes, 0);
    if (got < 0) break;
    std::span<const std::uint8_t> message(bytes, static_cast<std::size_t>(got));
    if (!is_v6_ && is_raw_) {  // with the IP header; one for IPv6 without
      const std::size_t header = message.empty() ? 0 : (message[0] & 0x0fu) * 4u;
      if (header < sizeof(Ipv4Header) || header > message.size()) continue;
      message = message.subspan(header);
    }
    if (const auto id = echo_answer(message, is_v6_)) answers.push_back(*id);
  }
  return answers;
}

}  // namespace vx::control
