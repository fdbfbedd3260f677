// SPDX-License-Identifier: Apache-2.0
// Addresses and sockets. All sockets are non-blocking; failures throw LinkError with a sentence for the user.
#pragma once

#include <netinet/in.h>
#include <sys/socket.h>

#include <cstdint>
#include <optional>
#include <string>

#include "bench/link_protocol.h"
#include "dataplane/file_descriptor.h"

namespace vx::bench {

// An IPv4 or IPv6 address with a port; IPv6's scope is kept. IPv4 in IPv6's clothes (::ffff:a.b.c.d) is made IPv4.
class Address {
 public:
  Address() = default;
  Address(const sockaddr_storage& storage, socklen_t length);
  // A name or a numeric address.
  static Address resolve(const std::string& host, std::uint16_t port, bool is_passive);

  [[nodiscard]] const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&storage_); }
  [[nodiscard]] socklen_t length() const { return length_; }
  [[nodiscard]] int family() const { return storage_.ss_family; }
  [[nodiscard]] bool is_v6() const { return family() == AF_INET6; }
  [[nodiscard]] std::uint16_t port() const;
  [[nodiscard]] Address with_port(std::uint16_t port) const;
  [[nodiscard]] std::string host() const;                          // without the port
  [[nodiscard]] bool is_same_host(const Address& other) const;     // the port is not looked at
  [[nodiscard]] unsigned header_bytes() const { return is_v6() ? 48 : 28; }  // of IP and UDP

 private:
  sockaddr_storage storage_{};
  socklen_t length_ = 0;
};

[[nodiscard]] Address local_address(int fd);
[[nodiscard]] Address peer_address(int fd);

[[nodiscard]] FileDescriptor listen_tcp(const Address& at);
// Waits for at most 3 s. `local`: sent from there.
[[nodiscard]] FileDescriptor connect_tcp(const Address& to, const std::optional<Address>& local);
// Sends with DF whatever the kernel has learned of the path: only its own interface's MTU refuses (EMSGSIZE). Unconnected, as what
// ICMP says would else look like the kernel's own refusal.
[[nodiscard]] FileDescriptor open_udp(const Address& local);
// Datagrams that came and found the socket's buffer full.
[[nodiscard]] std::uint64_t dropped_by_socket(int fd);

struct Interface {
  std::string name;
  unsigned mtu = 0;
};
// The one that has this address; nothing known (name empty, MTU 65535) when none has.
[[nodiscard]] Interface interface_of(const Address& address);

}  // namespace vx::bench
