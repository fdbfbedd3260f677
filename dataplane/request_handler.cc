// SPDX-License-Identifier: Apache-2.0
#include "dataplane/request_handler.h"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <exception>
#include <new>
#include <system_error>

#include "dataplane/message_codec.h"
#include "dataplane/request_error.h"

namespace vx {
namespace {

using protocol::MessageBuilder;
using protocol::MessageType;

// One request on its way: the message, what is known of it, and the reply under construction.
class Request {
 public:
  Request(std::span<const std::byte> message, const protocol::MessageHeader& header,
          Switchboard& switchboard, const RequestHandler::Times& times)
      : message_(message),
        header_(header),
        switchboard_(switchboard),
        times_(times),
        reply_(header.type, header.sequence) {}

  void dispatch(const protocol::HelloReply& hello, bool& subscribes);
  [[nodiscard]] std::vector<std::byte> take_reply() { return reply_.take(); }

 private:
  [[noreturn]] void malformed() const {
    throw RequestError(
        EPROTO, fmt::format("request {}: {} records do not fit {} bytes",
                            static_cast<unsigned>(header_.type), header_.count, message_.size()));
  }
  template <typename Record>
  [[nodiscard]] std::vector<Record> records() const {
    auto records = protocol::read_records<Record>(message_);
    if (!records) malformed();
    return std::move(*records);
  }
  template <typename Record>
  [[nodiscard]] Record record() const {
    const auto all = records<Record>();
    if (all.size() != 1) malformed();
    return all[0];
  }
  void no_records() const {
    if (header_.count != 0 || message_.size() != sizeof header_) malformed();
  }
  [[nodiscard]] std::size_t first() const {  // of an optional DumpFrom
    if (header_.count == 0) no_records();
    return header_.count == 0 ? 0 : record<protocol::DumpFrom>().first;
  }
  template <typename Record>
  void append_while_fits(const std::vector<Record>& all, std::size_t from) {
    for (std::size_t i = from; i < all.size(); ++i)
      if (!reply_.append(all[i])) return;
  }

  void hello(protocol::HelloReply hello);
  void port_dump();
  void overlay_dump();
  void vtep_dump();
  void fdb_delete();
  void fdb_dump();
  void stats();
  void inject();

  std::span<const std::byte> message_;
  protocol::MessageHeader header_;
  Switchboard& switchboard_;
  const RequestHandler::Times& times_;
  MessageBuilder reply_;
};

void Request::hello(protocol::HelloReply hello) {
  no_records();
  hello.uptime_s = times_.uptime_s;
  hello.now_s = times_.now_s;
  reply_.append(hello);
}

void Request::port_dump() {
  const std::size_t from = first();
  for (const auto& info : switchboard_.ports())
    if (info.index >= from && !reply_.append(info)) return;
}

void Request::overlay_dump() {
  const std::size_t from = first();
  for (const auto& config : switchboard_.overlays())
    if (config.index >= from && !reply_.append(config)) return;
}

void Request::vtep_dump() {
  protocol::VtepRef from;
  from.index = 0;
  if (message_.size() == sizeof header_ + sizeof(protocol::VtepRef))
    from = record<protocol::VtepRef>();
  else
    from.overlay = record<protocol::OverlayRef>().index;
  for (const auto& config : switchboard_.vteps(from.overlay))
    if (config.index >= from.index && !reply_.append(config)) return;
}

void Request::fdb_delete() {
  for (const auto& request : records<protocol::FdbDelete>())
    reply_.append(protocol::FdbDeleteReply{
        static_cast<std::uint8_t>(switchboard_.delete_fdb(request, times_.now_s))});
}

void Request::fdb_dump() {
  const auto request = record<protocol::FdbDumpRequest>();
  const std::size_t room =
      (reply_.room() - sizeof(protocol::FdbDumpReply)) / sizeof(protocol::FdbRecord);
  std::vector<protocol::FdbRecord> found;
  found.reserve(room);
  protocol::FdbDumpReply summary;
  summary.cursor = switchboard_.dump_fdb(request, times_.now_s, room, found);
  summary.records = static_cast<std::uint32_t>(found.size());
  reply_.append(summary);
  append_while_fits(found, 0);
}

void Request::stats() {
  const std::size_t from = first();
  auto stats = switchboard_.stats();
  stats.reply.learn_events_lost += times_.learn_events_lost;
  stats.reply.punts_lost += times_.punts_lost;
  const std::size_t room =
      reply_.room() - sizeof stats.reply - stats.workers.size() * sizeof(protocol::WorkerStats);
  const std::size_t begin = std::min(from, stats.ports.size());
  const std::size_t count =
      std::min(stats.ports.size() - begin, room / sizeof(protocol::PortStats));
  stats.reply.ports = static_cast<std::uint32_t>(count);
  stats.reply.workers = static_cast<std::uint32_t>(stats.workers.size());
  reply_.append(stats.reply);
  for (std::size_t i = begin; i < begin + count; ++i) reply_.append(stats.ports[i]);
  append_while_fits(stats.workers, 0);
}

void Request::inject() {
  const auto frame = record<protocol::InjectFrame>();
  if (frame.length > frame.bytes.size())
    throw RequestError(EINVAL, "inject: the frame is longer than its place");
  switchboard_.inject(protocol::text_of(frame.port), {frame.bytes.data(), frame.length});
}

void Request::dispatch(const protocol::HelloReply& hello_reply, bool& subscribes) {
  switch (header_.type) {
    case MessageType::kHello: return hello(hello_reply);
    case MessageType::kPortAdd:
      reply_.append(switchboard_.add_port(record<protocol::PortConfig>()));
      return;
    case MessageType::kPortDelete:
      return switchboard_.delete_port(protocol::text_of(record<protocol::PortRef>().name));
    case MessageType::kPortSet:
      reply_.append(switchboard_.set_port(record<protocol::PortConfig>()));
      return;
    case MessageType::kPortDump: return port_dump();
    case MessageType::kUnderlaySet:
      return switchboard_.set_underlay(record<protocol::UnderlayConfig>());
    case MessageType::kUnderlayGet:
      no_records();
      reply_.append(switchboard_.underlay());
      return;
    case MessageType::kOverlaySet:
      return switchboard_.set_overlay(record<protocol::OverlayConfig>());
    case MessageType::kOverlayDelete:
      return switchboard_.delete_overlay(record<protocol::OverlayRef>().index);
    case MessageType::kOverlayDump: return overlay_dump();
    case MessageType::kVtepSet: return switchboard_.set_vteps(records<protocol::VtepConfig>());
    case MessageType::kVtepDelete: {
      const auto vtep = record<protocol::VtepRef>();
      return switchboard_.delete_vtep(vtep.overlay, vtep.index);
    }
    case MessageType::kVtepDump: return vtep_dump();
    case MessageType::kFdbPut:
      reply_.append(switchboard_.put_fdb(records<protocol::FdbRecord>(), times_.now_s));
      return;
    case MessageType::kFdbDelete: return fdb_delete();
    case MessageType::kFdbFlush: return switchboard_.flush_fdb(record<protocol::FdbFlush>());
    case MessageType::kFdbDump: return fdb_dump();
    case MessageType::kStatsGet: return stats();
    case MessageType::kInject: return inject();
    case MessageType::kSubscribe:
      no_records();
      subscribes = true;
      return;
    case MessageType::kWorkersSet:
      reply_.append(switchboard_.set_workers(record<protocol::WorkersConfig>()));
      return;
    case MessageType::kFailOpenSet:
      return switchboard_.set_fail_open(record<protocol::FailOpenConfig>());
    case MessageType::kFailOpenGet:
      no_records();
      reply_.append(switchboard_.fail_open());
      return;
    case MessageType::kLearnEvents:
    case MessageType::kPunt:
    case MessageType::kPortEvents: break;
  }
  throw RequestError(
      EPROTO, fmt::format("request {} is not known here", static_cast<unsigned>(header_.type)));
}

}  // namespace

RequestHandler::Reply RequestHandler::handle(std::span<const std::byte> message,
                                             const Times& times) {
  const auto header = protocol::read_header(message);
  if (!header)
    return {
        protocol::error_reply(
            MessageType{}, 0, EPROTO,
            fmt::format("not a message of protocol version {}: run both programs from one build",
                        protocol::kVersion)),
        false};
  const auto refuse = [&](int code, std::string_view text) {
    return Reply{protocol::error_reply(header->type, header->sequence, code, text), false};
  };
  try {
    Request request(message, *header, switchboard_, times);
    bool subscribes = false;
    request.dispatch(hello_, subscribes);
    return {request.take_reply(), subscribes};
  } catch (const RequestError& error) {
    return refuse(error.code(), error.what());
  } catch (const std::system_error& error) {
    return refuse(error.code().value() > 0 ? error.code().value() : EIO, error.what());
  } catch (const std::exception& error) {
    return refuse(EIO, error.what());
  }
}

}  // namespace vx
