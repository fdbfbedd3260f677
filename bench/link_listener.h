// SPDX-License-Identifier: Apache-2.0
// Who connects to the server's port: reads each connection's first line, and hands over the clients and the data streams of the one
// client that is served. All others are told no with a line. A connection that says nothing costs a descriptor for 2 s, of at most 16.
#pragma once

#include <functional>
#include <list>
#include <optional>
#include <string>
#include <utility>

#include "bench/link_socket.h"
#include "bench/link_tasks.h"

namespace vx::bench {

class Listener : public Task {
 public:
  using Log = std::function<void(const std::string&)>;
  Listener(const Address& at, Log log) : fd_(listen_tcp(at)), log_(std::move(log)) {}

  struct Client {
    FileDescriptor fd;
    Address address;
  };
  [[nodiscard]] std::optional<Client> take_client() { return std::exchange(client_, std::nullopt); }
  [[nodiscard]] bool has_client() const { return client_.has_value(); }
  [[nodiscard]] FileDescriptor take_data() { return std::move(data_); }
  [[nodiscard]] bool has_data() const { return static_cast<bool>(data_); }
  [[nodiscard]] std::uint16_t port() const { return local_address(fd_.get()).port(); }
  // Who is served now; nobody: the next client is taken.
  void serve(const Address& client, const Token& token);
  void serve_nobody();
  // The client may open its stream now, or not.
  void expect_data(bool expected);

  void watch(std::vector<pollfd>& all) const override;
  [[nodiscard]] TimePoint due() const override { return pending_.empty() ? TimePoint::max() : pending_.front().since + kPatience; }
  void step(TimePoint now, std::span<const pollfd> ready) override;

 private:
  static constexpr std::chrono::seconds kPatience{2};
  static constexpr std::size_t kMaxPending = 16;
  struct Pending {
    FileDescriptor fd;
    Address from;
    TimePoint since;
    std::string line;
  };
  struct Served {
    Address client;
    Token token{};
  };
  void accept_all(TimePoint now);
  bool read(Pending& pending);  // false: it is dealt with
  void greeted(Pending& pending);
  void refuse(const Pending& pending, const std::string& why);

  FileDescriptor fd_, data_;
  Log log_;
  std::list<Pending> pending_;
  std::optional<Client> client_;
  std::optional<Served> served_;
  bool expects_data_ = false;
};

}  // namespace vx::bench
