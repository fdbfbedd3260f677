// SPDX-License-Identifier: Apache-2.0
#include "bench/link_client.h"

#include <fmt/format.h>

#include <algorithm>

namespace vx::bench {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds kAnswer{5000}, kGrace{300}, kOpenFor{3000}, kOpenEvery{100};
constexpr milliseconds kIdleInterval{2}, kLoadedInterval{10};
constexpr unsigned kIdleEchoes = 200, kProbeTries = 3;
// Sizes below this are of no use to anybody.
constexpr unsigned kSmallestMtu = 128;
// UDP packets of a path with a huge MTU (loopback).
constexpr unsigned kLargestPacket = 9000;

TimePoint in(milliseconds time) { return Clock::now() + time; }

FileDescriptor connect_to(const ClientOptions& options) {
  std::optional<Address> local;
  if (!options.bind.empty()) local = Address::resolve(options.bind, 0, false);
  return connect_tcp(Address::resolve(options.address, options.port, false), local);
}

}  // namespace

Client::Client(const ClientOptions& options)
    : options_(options), control_(connect_to(options), "the server"), local_(local_address(control_.fd())), server_(peer_address(control_.fd())) {}

Tasks Client::with(const Tasks& others) {
  Tasks tasks = others;
  if (udp_) tasks.push_back(udp_.get());
  tasks.push_back(&control_);  // last: what came by UDP in this turn counts as heard
  return tasks;
}

void Client::wait(TimePoint until, const Tasks& others) {
  run_tasks(with(others), until, [] { return false; });
}

Json Client::next(const char* type, TimePoint until, const char* what, const Tasks& others) {
  for (;;) {
    if (!run_tasks(with(others), until, [this] { return control_.has_line(); })) throw LinkError(fmt::format("{}: the server does not answer", what));
    Json message = parse_reply(*control_.take());
    if (message["type"] == type) return message;
    if (message["type"] == "refused") {
      const auto error = message.find("error");
      throw LinkError(fmt::format("the server refuses: {}", error != message.end() && error->is_string() ? printable(error->get<std::string>()) : "no reason given"));
    }
    // A late word on a probe, or a second packet's `open`.
    if (message["type"] != "arrived" && message["type"] != "open") throw LinkError(fmt::format("{}: the server answers something else", what));
  }
}

Report Client::run(const std::function<void(const Report&)>& plan) {
  welcome();
  Report report;
  report.local = local_.host();
  report.remote = server_.host();
  report.port = options_.port;
  report.rate = options_.rate;
  report.seconds = options_.seconds;
  report.is_unlimited = options_.is_unlimited;
  const unsigned directions = (options_.has_up ? 1 : 0) + (options_.has_down ? 1 : 0);
  const std::uint64_t per_second = (options_.has_udp ? options_.rate / 8 : 0) + (options_.has_tcp ? tcp_rate() / 8 : 0);
  report.planned_bytes = directions * options_.seconds * per_second;
  report.planned_seconds = directions * options_.seconds * ((options_.has_udp ? 1 : 0) + (options_.has_tcp ? 1 : 0)) + 2 + 2 * directions;
  plan(report);

  open_path();
  report.idle = idle();
  for (const bool is_down : {false, true}) {
    if (is_down ? !options_.has_down : !options_.has_up) continue;
    Direction& way = (is_down ? report.down : report.up).emplace();
    way.mtu = path_mtu(is_down);
  }
  for (const bool is_tcp : {false, true}) {
    for (auto* way : {&report.up, &report.down}) {
      if (!*way || (is_tcp ? !options_.has_tcp : !options_.has_udp)) continue;
      const bool is_down = way == &report.down;
      if (is_tcp) (*way)->tcp = tcp(is_down);
      else (*way)->udp = udp(is_down, options_.bytes != 0 ? options_.bytes : std::clamp((*way)->mtu.path_bytes.value_or(1280), kMinPacketBytes, kLargestPacket));
    }
  }
  control_.send({{"type", "bye"}});
  return report;
}

void Client::welcome() {
  control_.send({{"type", "hello"}, {"version", kVersion}});
  const Json message = next("welcome", in(kAnswer), "hello");
  if (number_of(message, "version", 65535) != kVersion) throw LinkError("the server speaks another version");
  const auto token = message.find("token");
  const std::optional<Token> read = token != message.end() && token->is_string() ? token_from_hex(token->get<std::string>()) : std::nullopt;
  if (!read) throw LinkError("the server's welcome has no token");
  token_ = *read;
  limits_.rate = number_of(message, "max_rate", kMaxRate);
  limits_.seconds = static_cast<unsigned>(number_of(message, "max_seconds", kMaxSeconds));
  server_interface_mtu_ = static_cast<unsigned>(number_of(message, "interface_mtu", kMaxIpBytes));
  Flow flow = make_flow(false, false);
  if (options_.has_udp)
    if (const std::string why = refusal(flow, limits_); !why.empty()) throw LinkError(why);
  flow.is_tcp = true;
  if (flow.rate = tcp_rate(); options_.has_tcp)
    if (const std::string why = refusal(flow, limits_); !why.empty()) throw LinkError(why);
  udp_ = std::make_unique<UdpEndpoint>(local_.with_port(0), server_, token_);
  udp_->on_packet = [this](const PacketHeader& header, unsigned bytes, std::uint64_t now_ns) { packet(header, bytes, now_ns); };
}

// The server knows our UDP port by the first packet; a filter on the way is found here.
void Client::open_path() {
  for (const TimePoint until = in(kOpenFor); Clock::now() < until;) {
    (void)udp_->send({PacketKind::kOpen, 0, 0, 0}, kMinPacketBytes);
    run_tasks(with({}), in(kOpenEvery), [this] { return control_.has_line(); });
    if (!control_.has_line()) continue;
    (void)next("open", in(kAnswer), "opening the UDP path");
    return;
  }
  throw LinkError(fmt::format("no UDP packet reaches {} port {}, but TCP does: is UDP filtered?", server_.host(), server_.port()));
}

void Client::packet(const PacketHeader& header, unsigned bytes, std::uint64_t now_ns) {
  control_.heard(from_ns(now_ns));
  if (header.kind == PacketKind::kProbe && header.sequence == bytes && bytes == probe_bytes_) probe_arrived_ = true;
  if (echoes_ != nullptr) echoes_->answered(header, now_ns);
  if (header.kind == PacketKind::kData && account_ != nullptr && header.phase == phase_) account_->arrived(header.sequence, bytes, header.sent_ns, now_ns);
}

EchoResult Client::result_of(const Echoes& echoes) const {
  const RoundTrips& trips = echoes.round_trips();
  return {echoes.sent(), echoes.sent() - trips.count(), trips.percentile_us(50), trips.percentile_us(90), trips.percentile_us(99), trips.percentile_us(100)};
}

EchoResult Client::idle() {
  Echoes echoes(*udp_, ++phase_, kIdleInterval, kIdleEchoes, Clock::now(), in(kIdleInterval * kIdleEchoes * 2));
  echoes_ = &echoes;
  run_tasks(with({&echoes}), in(kIdleInterval * kIdleEchoes * 2), [&] { return echoes.is_over(); });
  run_tasks(with({}), in(milliseconds(1000)), [&] { return echoes.round_trips().count() == echoes.sent(); });
  echoes_ = nullptr;
  const EchoResult result = result_of(echoes);
  // A probe that is not there after four slow round trips is lost.
  if (result.lost < result.sent) probe_wait_ = std::clamp(milliseconds(static_cast<int>(4 * result.p99_us / 1000)), milliseconds(80), milliseconds(1000));
  return result;
}

MtuSearch::Verdict Client::try_size(unsigned bytes, bool is_down) {
  probe_bytes_ = bytes;
  probe_arrived_ = false;
  for (unsigned i = 0; i < kProbeTries; ++i) {
    if (is_down) {
      control_.send({{"type", "probe"}, {"bytes", bytes}});
      const Json message = next("probed", in(kAnswer), "probing");
      const auto refused = message.find("refused");
      if (refused != message.end() && *refused == true) return MtuSearch::Verdict::kRefused;
      if (run_tasks(with({}), in(probe_wait_), [this] { return probe_arrived_; })) return MtuSearch::Verdict::kPassed;
      continue;
    }
    if (udp_->send({PacketKind::kProbe, 0, bytes, 0}, bytes) == UdpEndpoint::Sent::kTooBig) return MtuSearch::Verdict::kRefused;
    for (const TimePoint until = in(probe_wait_); run_tasks(with({}), until, [this] { return control_.has_line(); });) {
      const Json message = parse_reply(*control_.take());
      if (message["type"] == "arrived" && number_of(message, "bytes", kMaxIpBytes) == bytes) return MtuSearch::Verdict::kPassed;
    }
  }
  return MtuSearch::Verdict::kLost;
}

MtuResult Client::path_mtu(bool is_down) {
  MtuResult result;
  result.interface_bytes = is_down ? server_interface_mtu_ : interface_of(local_).mtu;
  MtuSearch search(kSmallestMtu, result.interface_bytes);
  while (const std::optional<unsigned> size = search.next()) search.tried(try_size(*size, is_down));
  result.path_bytes = search.result();
  // The address may be on another interface (lo) than the one that the packets leave by: what that refuses is its MTU.
  if (search.is_own_limit() && result.path_bytes) result.interface_bytes = *result.path_bytes;
  return result;
}

Flow Client::make_flow(bool is_tcp, bool is_down) {
  Flow flow;
  flow.phase = ++phase_;
  flow.is_tcp = is_tcp;
  flow.is_down = is_down;
  flow.rate = is_tcp ? tcp_rate() : options_.rate;
  flow.seconds = options_.seconds;
  flow.bytes = options_.bytes != 0 ? options_.bytes : 1280;
  return flow;
}

void Client::start(const Flow& flow) {
  control_.send(to_json(flow));
  (void)next("started", in(kAnswer), "starting a phase");
}

UdpResult Client::udp(bool is_down, unsigned bytes) {
  Flow flow = make_flow(false, is_down);
  flow.bytes = bytes;
  UdpResult result;
  result.packet_bytes = bytes;
  result.asked_rate = flow.rate;
  start(flow);
  // Echoes fall silent just before the flow does: each has met the load.
  Echoes echoes(*udp_, ++phase_, kLoadedInterval, flow.seconds * 100, Clock::now() + kLoadedInterval, Clock::now() + std::chrono::seconds(flow.seconds) - kLoadedInterval);
  echoes_ = &echoes;
  phase_ = flow.phase;
  is_down ? udp_down(flow, result) : udp_up(flow, result);
  ++phase_;
  echoes_ = nullptr;
  result.loaded = result_of(echoes);
  result.sent_rate = static_cast<double>(result.sent) * bytes * 8 / flow.seconds;
  return result;
}

void Client::udp_up(const Flow& flow, UdpResult& result) {
  UdpSender sender(*udp_, flow, Clock::now());
  run_tasks(with({&sender, echoes_}), TimePoint::max(), [&] { return sender.is_over(); });
  result.sent = sender.packets();
  control_.send({{"type", "sent"}, {"packets", result.sent}});
  const Json message = next("result", in(kAnswer), "UDP up");
  result.received = number_of(message, "received", kMaxPackets);
  result.duplicated = number_of(message, "duplicated", UINT64_MAX);
  result.reordered = number_of(message, "reordered", kMaxPackets);
  result.socket_drops = number_of(message, "socket_drops", UINT64_MAX);
  result.jitter_us = static_cast<double>(number_of(message, "jitter_ns", UINT64_MAX)) / 1000;
  result.rate = static_cast<double>(number_of(message, "rate", UINT64_MAX));
}

void Client::udp_down(const Flow& flow, UdpResult& result) {
  account_ = std::make_unique<SequenceAccount>(kMaxPackets);
  const std::uint64_t dropped = udp_->dropped();
  const Json message = next("sent", in(std::chrono::seconds(flow.seconds) + kAnswer), "UDP down", {echoes_});
  wait(in(kGrace), {});
  result.sent = number_of(message, "packets", kMaxPackets);
  result.received = account_->received();
  result.duplicated = account_->duplicated();
  result.reordered = account_->reordered();
  result.socket_drops = udp_->dropped() - dropped;
  result.jitter_us = account_->jitter_us();
  result.rate = account_->rate();
  account_.reset();
}

TcpResult Client::tcp(bool is_down) {
  const Flow flow = make_flow(true, is_down);
  TcpResult result;
  result.pace = flow.rate;
  start(flow);
  FileDescriptor fd = connect_tcp(server_, local_.with_port(0));
  const std::string line = Json{{"type", "data"}, {"token", to_hex(token_)}}.dump() + '\n';
  if (send(fd.get(), line.data(), line.size(), MSG_NOSIGNAL) != static_cast<ssize_t>(line.size())) throw LinkError("the TCP stream broke at once");
  Echoes echoes(*udp_, ++phase_, kLoadedInterval, flow.seconds * 100, Clock::now() + kLoadedInterval, Clock::now() + std::chrono::seconds(flow.seconds) - kLoadedInterval);
  echoes_ = &echoes;
  std::uint64_t ns = 0;
  if (is_down) {
    TcpReceiver receiver(fd);
    const Json message = next("sent", in(std::chrono::seconds(flow.seconds) + kAnswer), "TCP down", {&receiver, &echoes});
    result.is_whole = run_tasks(with({&receiver}), in(milliseconds(1000)), [&] { return receiver.is_over(); }) && receiver.bytes() >= number_of(message, "bytes", UINT64_MAX);
    result.retransmits = number_of(message, "retransmits", UINT64_MAX);
    result.bytes = receiver.bytes();
    ns = receiver.nanoseconds();
  } else {
    TcpSender sender(fd, flow, Clock::now());
    run_tasks(with({&sender, &echoes}), TimePoint::max(), [&] { return sender.is_over(); });
    result.retransmits = sender.retransmits();
    const Json message = next("result", in(kAnswer), "TCP up");
    result.bytes = number_of(message, "bytes", UINT64_MAX);
    const auto whole = message.find("whole");
    result.is_whole = whole != message.end() && *whole == true && result.bytes >= sender.bytes();
    ns = number_of(message, "nanoseconds", UINT64_MAX);
  }
  echoes_ = nullptr;
  result.loaded = result_of(echoes);
  result.seconds = static_cast<double>(ns) / 1e9;
  result.rate = ns == 0 ? 0 : static_cast<double>(result.bytes) * 8e9 / static_cast<double>(ns);
  close_hard(fd);
  return result;
}

}  // namespace vx::bench
