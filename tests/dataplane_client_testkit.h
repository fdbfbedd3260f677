// SPDX-License-Identifier: Apache-2.0
// Talks to dataplane.sock as control does, from a test.
#pragma once

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>
#include <string>
#include <vector>

#include "dataplane/file_descriptor.h"
#include "dataplane/message_codec.h"

namespace vx::testkit {

class TestClient {
 public:
  explicit TestClient(FileDescriptor fd) : fd_(std::move(fd)) {}
  // Not connected when nobody listens.
  explicit TestClient(const std::string& path)
      : fd_(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0)) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::strncpy(address.sun_path, path.c_str(), sizeof address.sun_path - 1);
    if (connect(fd_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0)
      fd_.reset();
  }
  [[nodiscard]] bool is_connected() const { return static_cast<bool>(fd_); }
  [[nodiscard]] int fd() const { return fd_.get(); }

  void send_bytes(const std::vector<std::byte>& bytes) {
    ASSERT_EQ(::send(fd_.get(), bytes.data(), bytes.size(), 0), ssize_t(bytes.size()));
  }
  // Empty: nothing came in time, or the connection was closed.
  std::vector<std::byte> receive(int timeout_ms = 5000) {
    pollfd poll_fd{fd_.get(), POLLIN, 0};
    std::vector<std::byte> bytes(protocol::kMaxMessageBytes + 1);
    if (poll(&poll_fd, 1, timeout_ms) != 1) return {};
    const auto got = recv(fd_.get(), bytes.data(), bytes.size(), 0);
    bytes.resize(got > 0 ? static_cast<std::size_t>(got) : 0);
    return bytes;
  }
  template <typename... Records>
  std::vector<std::byte> request(protocol::MessageType type, const Records&... records) {
    protocol::MessageBuilder message(type, ++sequence_);
    (message.append(records), ...);
    send_bytes(message.take());
    auto reply = receive();
    const auto header = protocol::read_header(reply);
    EXPECT_TRUE(header) << "no reply to request " << static_cast<int>(type);
    status_ = header ? header->status : -1;
    if (header) {
      EXPECT_EQ(header->sequence, sequence_);
      EXPECT_EQ(header->type, type);
    }
    error_.clear();
    if (status_ != 0)
      if (const auto text = protocol::read_record<protocol::ErrorText>(reply, 0))
        error_ = protocol::text_of(text->text);
    return reply;
  }
  template <typename Reply, typename... Records>
  Reply ask(protocol::MessageType type, const Records&... records) {
    const auto reply = request(type, records...);
    EXPECT_EQ(status_, 0) << error_;
    const auto record = protocol::read_record<Reply>(reply, 0);
    EXPECT_TRUE(record);
    return record.value_or(Reply{});
  }
  [[nodiscard]] int status() const { return status_; }
  [[nodiscard]] const std::string& error() const { return error_; }

 private:
  FileDescriptor fd_;
  std::uint32_t sequence_ = 0;
  int status_ = 0;
  std::string error_;
};

}  // namespace vx::testkit
