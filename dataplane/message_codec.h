// SPDX-License-Identifier: Apache-2.0
// Builds messages of protocol.h, and reads their records with every length checked.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "dataplane/protocol.h"

namespace vx::protocol {

class MessageBuilder {
 public:
  MessageBuilder(MessageType type, std::uint32_t sequence, std::int32_t status = 0)
      : bytes_(sizeof(MessageHeader)) {
    header_.type = type;
    header_.sequence = sequence;
    header_.status = status;
  }
  // False, and nothing appended, when the message would grow above kMaxMessageBytes.
  template <typename Record>
  bool append(const Record& record) {
    static_assert(is_record_v<Record>);
    if (bytes_.size() + sizeof record > kMaxMessageBytes || header_.count == UINT16_MAX)
      return false;
    const auto* begin = reinterpret_cast<const std::byte*>(&record);
    bytes_.insert(bytes_.end(), begin, begin + sizeof record);
    ++header_.count;
    return true;
  }
  // Bytes that records may still take.
  [[nodiscard]] std::size_t room() const noexcept { return kMaxMessageBytes - bytes_.size(); }
  [[nodiscard]] std::vector<std::byte> take() {
    std::memcpy(bytes_.data(), &header_, sizeof header_);
    return std::move(bytes_);
  }

 private:
  MessageHeader header_;
  std::vector<std::byte> bytes_;
};

// All records of a message of one type; empty when header.count does not fit the message's length
// exactly.
template <typename Record>
[[nodiscard]] std::optional<std::vector<Record>> read_records(std::span<const std::byte> message) {
  const auto header = read_header(message);
  if (!header || message.size() - sizeof *header != header->count * sizeof(Record))
    return std::nullopt;
  std::vector<Record> records(header->count);
  if (!records.empty())
    std::memcpy(static_cast<void*>(records.data()), message.data() + sizeof *header,
                records.size() * sizeof(Record));
  return records;
}

[[nodiscard]] inline std::vector<std::byte> error_reply(MessageType type, std::uint32_t sequence,
                                                        int code, std::string_view text) {
  MessageBuilder reply(type, sequence, code);
  ErrorText error;
  set_text(error.text, text);
  reply.append(error);
  return reply.take();
}

}  // namespace vx::protocol
