// SPDX-License-Identifier: Apache-2.0
// Control's end of dataplane.sock: requests with one reply each, and a second connection for events.
//
// Requests are synchronous with a timeout: the dataplane's management thread answers within milliseconds,
// adding a port may take seconds. Whatever goes wrong with a connection (refused, timeout, a reply that is
// short, of another version or sequence) closes both; the owner tries connect() again later. One thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "dataplane/protocol.h"

namespace vx::control {

class DataplaneClient {
 public:
  explicit DataplaneClient(std::string run_dir);
  ~DataplaneClient();
  DataplaneClient(const DataplaneClient&) = delete;
  DataplaneClient& operator=(const DataplaneClient&) = delete;

  // Opens both connections, says hello and subscribes. False: nobody there yet (error() says why).
  bool connect();
  void disconnect();
  // Called before the connections close, whoever closes them: event_fd() is still open then.
  void on_disconnect(std::function<void()> call) { on_disconnect_ = std::move(call); }
  [[nodiscard]] bool is_connected() const noexcept { return requests_ >= 0; }
  [[nodiscard]] const protocol::HelloReply& hello() const noexcept { return hello_; }
  // Of the event connection, non-blocking; -1 when not connected. For EventLoop.
  [[nodiscard]] int event_fd() const noexcept { return events_; }
  // Why the last thing failed, one line.
  [[nodiscard]] const std::string& error() const noexcept { return error_; }

  struct Reply {
    std::uint16_t count = 0;
    std::vector<std::byte> message;  // header included: for protocol::read_record
    template <typename Record>
    [[nodiscard]] std::optional<Record> record(std::size_t index = 0, std::size_t offset = 0) const {
      return protocol::read_record<Record>(message, offset, index);
    }
  };
  static constexpr int kTimeoutMs = 2000;
  static constexpr int kPortTimeoutMs = 20000;  // a NIC that resets its queues takes its time

  // Sends `count` records of `record_bytes` each. Empty: error() says why; still connected if the dataplane refused.
  [[nodiscard]] std::optional<Reply> request(protocol::MessageType type, const void* records, std::size_t count,
                                             std::size_t record_bytes, int timeout_ms = kTimeoutMs);
  template <typename Record>
  [[nodiscard]] std::optional<Reply> request(protocol::MessageType type, const Record& record,
                                             int timeout_ms = kTimeoutMs) {
    static_assert(protocol::is_record_v<Record>);
    return request(type, &record, 1, sizeof record, timeout_ms);
  }
  template <typename Record>
  [[nodiscard]] std::optional<Reply> request(protocol::MessageType type, std::span<const Record> records) {
    static_assert(protocol::is_record_v<Record>);
    return request(type, records.data(), records.size(), sizeof(Record));
  }
  [[nodiscard]] std::optional<Reply> request(protocol::MessageType type) { return request(type, nullptr, 0, 0); }

  // All records of a dump whose reply is one message of records.
  template <typename Record>
  [[nodiscard]] static std::vector<Record> records_of(const Reply& reply, std::size_t offset = 0) {
    std::vector<Record> out;
    for (std::size_t i = 0;; ++i) {
      const auto record = reply.record<Record>(i, offset);
      if (!record) return out;
      out.push_back(*record);
    }
  }

  // One event message, or empty when none waits. Closes everything when the dataplane has gone.
  [[nodiscard]] std::optional<std::vector<std::byte>> next_event();

 private:
  [[nodiscard]] int open_connection();
  bool fail(std::string why);

  std::string path_;
  int requests_ = -1;
  int events_ = -1;
  bool is_subscribed_ = false;
  std::uint32_t sequence_ = 0;
  protocol::HelloReply hello_;
  std::string error_;
  std::function<void()> on_disconnect_;
  std::vector<std::byte> buffer_;
};

template <typename Record>
inline constexpr std::size_t kRecordsPerMessage =
    (protocol::kMaxMessageBytes - sizeof(protocol::MessageHeader)) / sizeof(Record);

}  // namespace vx::control
