// SPDX-License-Identifier: Apache-2.0
#include "bench/traffic_run.h"

#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <pthread.h>
#include <sched.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <exception>
#include <system_error>
#include <thread>

#include "bench/traffic_namespace.h"
#include "dataplane/clock.h"
#include "dataplane/file_descriptor.h"

namespace vx::traffic {
namespace {

constexpr MacAddress kBroadcast = {{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}};
constexpr double kNsPerSecond = 1e9;
constexpr std::uint64_t kQuietNs = 100'000'000, kMostSettleNs = 2'000'000'000;
constexpr double kLateShare = 0.005;  // of the frames skipped: the rate was not reached
constexpr std::uint32_t kTimedMask = 7;  // one frame in 8
constexpr unsigned kAnnounceRounds = 2;
constexpr double kTaughtSeconds = 0.05;  // until what was announced is installed, wherever that is

void pin(std::thread& thread, int cpu) {
  if (cpu < 0) return;
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(cpu, &set);
  if (const int error = ::pthread_setaffinity_np(thread.native_handle(), sizeof set, &set); error != 0)
    throw std::system_error(error, std::system_category(), "--cpu-send");
}

std::unique_ptr<Sender> open_sender(const TrafficOptions& options, FrameMaker& frames) {
  const Inside inside(options.from);
  switch (options.sender) {
    case SenderKind::kAfPacket: return make_af_packet_sender(frames, options.from.device);
    case SenderKind::kXdpLive: return make_xdp_live_sender(frames, options.from);
    default: return make_af_xdp_sender(frames, options.from.device);
  }
}

std::unique_ptr<Sink> open_sink(const TrafficOptions& options, std::uint32_t flows) {
  const Inside inside(options.to);
  SinkSettings settings{flows, options.sink_vni.has_value(), options.sink_vni.value_or(0), kVxlanPort, 0};
  // At full speed the clock would be a part of what is measured.
  if (options.rate == 0 && !options.learn) settings.timed_mask = kTimedMask;
  if (options.sink_outer) settings.port = options.sink_outer->port;
  return std::make_unique<Sink>(options.to.device, settings);
}

}  // namespace

void add_up(Report& report, std::span<const std::uint32_t> sent, std::span<const vxt_flow> flows) {
  for (std::size_t i = 0; i < sent.size(); ++i) {
    const vxt_flow& flow = flows[i];
    report.sent += sent[i];
    report.received += flow.received;
    report.duplicated += flow.duplicated;
    report.reordered += flow.reordered;
    report.unknown += flow.unknown;
    report.flows_lossy += flow.received != sent[i];
    report.flows_duplicated += flow.duplicated != 0;
    report.flows_reordered += flow.reordered != 0;
    report.flows_unknown += flow.unknown != 0;
  }
  report.lost = report.sent - report.received;
}

Run::Run(const TrafficOptions& options, const std::atomic<bool>& stop) : options_(options), stop_(stop), frames_(options.shape) {
  if (options.learn) frames_.learn();
  sink_ = open_sink(options, frames_.flows());
  if (options.cpu_receive >= 0) napi_.emplace(options.to, options.cpu_receive);
  sender_ = open_sender(options, frames_);
}

void Run::sleep(double seconds) const {
  const auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
  while (!stop_ && std::chrono::steady_clock::now() < end) std::this_thread::sleep_for(std::chrono::milliseconds(10));
}

std::uint64_t Run::announce_from(const Place& place, std::uint32_t macs, MacAddress (*mac_of)(std::uint32_t), MacAddress to,
                                 const std::optional<Outer>& outer) {
  const Inside inside(place);
  const FileDescriptor socket(::socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0));
  sockaddr_ll address{};
  address.sll_family = AF_PACKET;
  address.sll_ifindex = static_cast<int>(::if_nametoindex(place.device.c_str()));
  if (!socket || ::bind(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0)
    throw std::system_error(errno, std::system_category(), place.device + ": AF_PACKET");
  const std::uint64_t start = monotonic_ns();
  std::uint64_t sent = 0;
  for (; sent < macs && !stop_; ++sent) {
    const auto frame = announcement(mac_of(options_.shape.first_mac + static_cast<std::uint32_t>(sent)), to, options_.shape.vlan, outer);
    if (::send(socket.get(), frame.data(), frame.size(), 0) < 0 && errno != ENOBUFS)
      throw std::system_error(errno, std::system_category(), place.device + ": cannot announce");
    const auto due = start + static_cast<std::uint64_t>(static_cast<double>(sent + 1) * kNsPerSecond / options_.announce_rate);
    if (const std::uint64_t now = monotonic_ns(); now < due) std::this_thread::sleep_for(std::chrono::nanoseconds(due - now));
  }
  return sent;
}

std::uint64_t Run::announce() {
  std::uint64_t sent = 0;
  for (unsigned round = 0; round < kAnnounceRounds; ++round) {
    // The generator's own first, by broadcast: what the sink's side then sends to it need not be flooded.
    if (!options_.learn) sent += announce_from(options_.from, options_.shape.source_macs, source_mac, kBroadcast, options_.shape.outer);
    if (!options_.sink_vni || options_.sink_outer)
      sent += announce_from(options_.to, options_.shape.macs, destination_mac, source_mac(options_.shape.first_mac), options_.sink_outer);
    sleep(kTaughtSeconds);
  }
  return sent;
}

void Run::settle() {
  const std::uint64_t start = monotonic_ns();
  std::uint64_t changed = start, frames = 0;
  for (std::uint64_t now = start; now - changed < kQuietNs && now - start < kMostSettleNs; now = monotonic_ns()) {
    const std::uint64_t seen = sink_->program().totals().frames;
    if (seen != frames) changed = now;
    frames = seen;
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
}

Report Run::trial(double pps, double seconds, double warmup) {
  Report report;
  report.asked_pps = pps;
  Sent sent;
  std::exception_ptr error;
  const auto next_run = [this] { return run_ = static_cast<std::uint8_t>(run_ % 255 + 1); };
  std::atomic<bool> go = false;
  std::thread thread([&] {
    while (!go) std::this_thread::yield();
    try {
      if (warmup > 0) {
        sender_->begin(next_run());
        (void)sender_->send(pps, warmup, stop_);
      }
      const std::uint8_t run = next_run();
      sink_->program().begin(run);
      sender_->begin(run);
      sent = sender_->send(pps, seconds, stop_);
    } catch (...) {
      error = std::current_exception();
    }
  });
  try {
    pin(thread, options_.cpu_send);
  } catch (...) {
    error = std::current_exception();
  }
  go = true;
  thread.join();
  if (error) std::rethrow_exception(error);
  settle();
  report.sink = sink_->program().totals();
  report.seconds = sent.seconds;
  report.skipped = sent.skipped;
  add_up(report, sender_->sent(), sink_->program().flows());
  report.pps_sent = sent.seconds > 0 ? static_cast<double>(report.sent) / sent.seconds : 0;
  const auto arriving = static_cast<double>(report.sink.last_ns - report.sink.first_ns) / kNsPerSecond;
  // So few that none but the first was timed: then by the time of sending.
  report.pps_received = arriving > 0 ? static_cast<double>(report.received - 1) / arriving : static_cast<double>(report.received) / std::max(sent.seconds, 1e-3);
  return report;
}

SearchResult Run::search() {
  SearchSettings settings;
  settings.most_loss = *options_.search;
  settings.seconds = options_.search_seconds;
  return traffic::search(settings, [this](double pps, double seconds) {
    const Report report = trial(pps, seconds, options_.warmup);
    SearchTrial done{pps, report.pps_sent, report.pps_received, report.sent, report.lost, false};
    done.is_late = static_cast<double>(report.skipped) > kLateShare * static_cast<double>(report.sent + report.skipped);
    if (stop_) done.sent = 0;
    return done;
  });
}

}  // namespace vx::traffic
