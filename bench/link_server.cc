// SPDX-License-Identifier: Apache-2.0
#include "bench/link_server.h"

#include <fmt/format.h>
#include <signal.h>
#include <sys/random.h>
#include <sys/signalfd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>

namespace vx::bench {
namespace {

constexpr std::chrono::milliseconds kGrace{300}, kStreamGrace{2000}, kPatience{5000};
constexpr std::chrono::seconds kIdle{20};

struct Stopped {};

// SIGTERM and SIGINT as an exception out of whatever is being waited for.
class StopSignal : public Task {
 public:
  StopSignal() {
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGINT);
    sigprocmask(SIG_BLOCK, &signals, nullptr);
    fd_ = FileDescriptor(signalfd(-1, &signals, SFD_NONBLOCK | SFD_CLOEXEC));
  }
  void watch(std::vector<pollfd>& all) const override { all.push_back({fd_.get(), POLLIN, 0}); }
  void step(TimePoint, std::span<const pollfd> ready) override {
    if (!ready.empty() && ready[0].revents != 0) throw Stopped();
  }

 private:
  FileDescriptor fd_;
};

Token random_token() {
  Token token;
  if (getrandom(token.data(), token.size(), 0) != static_cast<ssize_t>(token.size())) throw LinkError("getrandom gives nothing");
  return token;
}

void log(const std::string& line) {
  fmt::print("{}\n", line);
  std::fflush(stdout);
}

}  // namespace

ServerSession::ServerSession(Listener::Client client, Listener& listener, Task& stop, const Limits& limits)
    : listener_(listener), stop_(stop), limits_(limits), local_(local_address(client.fd.get())), client_(client.address), token_(random_token()),
      control_(std::move(client.fd), "the client"), udp_(local_, client_.with_port(0), token_),
      // A client that never ends does not keep the server for itself.
      end_(Clock::now() + std::chrono::seconds(60 + 8 * limits.seconds)) {
  udp_.on_packet = [this](const PacketHeader& header, unsigned bytes, std::uint64_t now_ns) { packet(header, bytes, now_ns); };
}

Tasks ServerSession::with(std::initializer_list<Task*> others) {
  Tasks tasks = {&stop_, &udp_, &listener_};
  tasks.insert(tasks.end(), others);
  tasks.push_back(&control_);  // last: what came by UDP in this turn counts as heard
  return tasks;
}

std::optional<Request> ServerSession::next(TimePoint until) {
  run_tasks(with({}), until, [this] { return control_.has_line(); });
  const std::optional<std::string> line = control_.take();
  return line ? std::optional(parse_request(*line)) : std::nullopt;
}

void ServerSession::run() {
  listener_.serve(client_, token_);
  const Interface interface = interface_of(local_);
  control_.send({{"type", "welcome"}, {"version", kVersion}, {"token", to_hex(token_)}, {"max_rate", limits_.rate}, {"max_seconds", limits_.seconds},
                 {"interface_mtu", interface.mtu}});
  for (;;) {
    const std::optional<Request> request = next(std::min(Clock::now() + kIdle, end_));
    if (!request) throw LinkError(fmt::format("the client {}", Clock::now() >= end_ ? "takes too long" : "asks for nothing"));
    close_hard(data_);
    if (std::holds_alternative<Bye>(*request)) return;
    if (const Probe* wanted = std::get_if<Probe>(&*request)) probe(*wanted);
    else if (const Start* started = std::get_if<Start>(&*request)) start(started->flow);
    else throw LinkError("a control message that does not belong here");
  }
}

void ServerSession::packet(const PacketHeader& header, unsigned bytes, std::uint64_t now_ns) {
  control_.heard(from_ns(now_ns));
  if (!was_opened_) {
    was_opened_ = true;
    control_.send({{"type", "open"}});
  }
  if (header.kind == PacketKind::kProbe && header.sequence == bytes && ++arrivals_ <= kMaxProbes) control_.send({{"type", "arrived"}, {"bytes", bytes}});
  if (header.kind == PacketKind::kData && account_ != nullptr && header.phase == phase_) account_->arrived(header.sequence, bytes, header.sent_ns, now_ns);
}

void ServerSession::probe(const Probe& probe) {
  if (!udp_.knows_peer()) throw LinkError("a probe is wanted before a UDP packet came");
  if (++probes_ > kMaxProbes) throw LinkError("too many probes");
  if (probe.bytes < kMinPacketBytes) throw LinkError("a probe that is too small");
  const UdpEndpoint::Sent sent = udp_.send({PacketKind::kProbe, 0, probe.bytes, 0}, probe.bytes);
  control_.send({{"type", "probed"}, {"bytes", probe.bytes}, {"refused", sent == UdpEndpoint::Sent::kTooBig}});
}

void ServerSession::start(const Flow& flow) {
  std::string why = refusal(flow, limits_);
  if (++phases_ > kMaxPhases) why = "too many phases";
  if (!flow.is_tcp && !udp_.knows_peer()) why = "no UDP packet came";
  if (!why.empty()) {
    control_.send({{"type", "refused"}, {"error", why}});
    throw LinkError(why);
  }
  phase_ = flow.phase;
  if (flow.is_tcp) return tcp(flow);
  control_.send({{"type", "started"}});
  flow.is_down ? send_udp(flow) : receive_udp(flow);
}

void ServerSession::receive_udp(const Flow& flow) {
  account_ = std::make_unique<SequenceAccount>(kMaxPackets);
  const std::uint64_t dropped = udp_.dropped();
  const std::optional<Request> request = next(Clock::now() + std::chrono::seconds(flow.seconds) + kPatience);
  const Sent* sent = request ? std::get_if<Sent>(&*request) : nullptr;
  if (sent == nullptr) throw LinkError("the client does not say how much it sent");
  run_tasks(with({}), Clock::now() + kGrace, [] { return false; });
  control_.send({{"type", "result"}, {"received", account_->received()}, {"bytes", account_->bytes()}, {"duplicated", account_->duplicated()},
                 {"reordered", account_->reordered()}, {"socket_drops", udp_.dropped() - dropped},
                 {"jitter_ns", static_cast<std::uint64_t>(account_->jitter_us() * 1000)}, {"rate", static_cast<std::uint64_t>(account_->rate())}});
  account_.reset();
}

void ServerSession::send_udp(const Flow& flow) {
  UdpSender sender(udp_, flow, Clock::now());
  run_tasks(with({&sender}), TimePoint::max(), [&] { return sender.is_over(); });
  control_.send({{"type", "sent"}, {"packets", sender.packets()}});
}

void ServerSession::tcp(const Flow& flow) {
  listener_.expect_data(true);
  control_.send({{"type", "started"}});
  if (!run_tasks(with({}), Clock::now() + kPatience, [this] { return listener_.has_data(); })) throw LinkError("the client opens no data stream");
  data_ = listener_.take_data();
  listener_.expect_data(false);
  if (flow.is_down) {
    TcpSender sender(data_, flow, Clock::now());
    run_tasks(with({&sender}), TimePoint::max(), [&] { return sender.is_over(); });
    control_.send({{"type", "sent"}, {"bytes", sender.bytes()}, {"retransmits", sender.retransmits()}});
    return;  // the stream stays until the client asks for something else: it may still read
  }
  TcpReceiver receiver(data_);
  const TimePoint latest = Clock::now() + std::chrono::seconds(flow.seconds) + kStreamGrace;
  const bool is_whole = run_tasks(with({&receiver}), latest, [&] { return receiver.is_over(); });
  control_.send({{"type", "result"}, {"bytes", receiver.bytes()}, {"nanoseconds", receiver.nanoseconds()}, {"whole", is_whole}});
  close_hard(data_);
}

int run_server(const ServerOptions& options) {
  StopSignal stop;
  const Address at = Address::resolve(options.bind.empty() ? "::" : options.bind, options.port, true);
  std::unique_ptr<Listener> listener;
  try {
    listener = std::make_unique<Listener>(at, log);
  } catch (const LinkError&) {
    if (!options.bind.empty()) throw;
    listener = std::make_unique<Listener>(Address::resolve("0.0.0.0", options.port, true), log);  // a kernel without IPv6
  }
  log(fmt::format("listening on {} port {}; at most {} and {} s a phase", at.host(), listener->port(), rate_text(static_cast<double>(options.limits.rate)),
                  options.limits.seconds));
  try {
    for (;;) {
      run_tasks({&stop, listener.get()}, TimePoint::max(), [&] { return listener->has_client(); });
      Listener::Client client = *listener->take_client();
      const std::string host = client.address.host();
      log(fmt::format("serving {}", host));
      bool is_broken = false;
      try {
        ServerSession session(std::move(client), *listener, stop, options.limits);
        session.run();
        log(fmt::format("done with {}", host));
      } catch (const LinkError& error) {
        log(fmt::format("closed {}: {}", host, error.what()));
        is_broken = true;
      }
      listener->serve_nobody();
      if (options.is_once) return is_broken ? 1 : 0;
    }
  } catch (const Stopped&) {
    return 0;
  }
}

}  // namespace vx::bench
