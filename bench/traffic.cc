// SPDX-License-Identifier: Apache-2.0
// Traffic generator and sink in one process, for measuring what is between two netdevs of two network namespaces: rate, loss,
// duplicates, order and latency of frames, the same way whatever forwards them.
//
//   vxplane-traffic --from NETNS:DEV --to NETNS:DEV [OPTION...]     prints one JSON object; README.md, `bench/compare`
#include <fmt/format.h>
#include <signal.h>

#include <atomic>
#include <cmath>
#include <cstdio>
#include <exception>
#include <nlohmann/json.hpp>
#include <numeric>

#include "bench/traffic_options.h"
#include "bench/traffic_run.h"

namespace vx::traffic {
namespace {

using Json = nlohmann::ordered_json;

std::atomic<bool> stop = false;
static_assert(std::atomic<bool>::is_always_lock_free, "set by a signal handler");

double rounded(double value, double per_unit) { return std::round(value * per_unit) / per_unit; }

Json latency_of(const SinkTotals& totals) {
  const auto microseconds = [](std::uint64_t ns) { return rounded(static_cast<double>(ns) / 1000, 1000); };
  return {{"p50", microseconds(percentile(totals, 0.5))},
          {"p90", microseconds(percentile(totals, 0.9))},
          {"p99", microseconds(percentile(totals, 0.99))},
          {"p99.9", microseconds(percentile(totals, 0.999))},
          {"max", microseconds(totals.max_latency_ns)},
          {"samples", std::accumulate(totals.latency.begin(), totals.latency.end(), std::uint64_t{0})}};
}

void put_report(Json& out, const Report& report) {
  out["seconds"] = rounded(report.seconds, 1e6);
  out["sent"] = report.sent;
  out["received"] = report.received;
  out["lost"] = report.lost;
  out["duplicated"] = report.duplicated;
  out["reordered"] = report.reordered;
  out["unknown"] = report.unknown;
  out["skipped"] = report.skipped;
  out["stale"] = report.sink.stale;
  out["flows_with"] = {{"loss", report.flows_lossy},
                       {"duplicates", report.flows_duplicated},
                       {"reordering", report.flows_reordered},
                       {"unknown", report.flows_unknown}};
  out["pps_sent"] = std::round(report.pps_sent);
  out["pps_received"] = std::round(report.pps_received);
  out["latency_us"] = latency_of(report.sink);
}

void put_search(Json& out, const TrafficOptions& options, const SearchResult& result) {
  Json trials = Json::array();
  for (const SearchTrial& trial : result.trials)
    trials.push_back({{"rate", std::round(trial.asked_pps)},
                      {"pps_sent", std::round(trial.pps)},
                      {"pps_received", std::round(trial.pps_received)},
                      {"sent", trial.sent},
                      {"lost", trial.lost},
                      {"passed", trial.sent != 0 && trial.loss() <= *options.search},
                      {"late", trial.is_late}});
  out["search"] = {{"loss", *options.search},
                   {"seconds", options.search_seconds},
                   {"pps", std::round(result.pps)},
                   {"confirmed", result.is_confirmed},
                   {"sender_bound", result.is_sender_bound},
                   {"trials", trials}};
}

const char* name_of(SenderKind kind) {
  return kind == SenderKind::kAfXdp ? "af_xdp" : kind == SenderKind::kAfPacket ? "af_packet" : "xdp_live";
}

Json measure(const TrafficOptions& options) {
  Run run(options, stop);
  Json out = {{"sender", name_of(options.sender)},
              {"sink", run.is_native() ? "native" : "generic"},
              {"size", options.shape.size},
              {"macs", options.shape.macs},
              {"flows", std::max(options.shape.flows, options.shape.macs)},
              {"rate", options.learn ? *options.learn : options.rate},
              {"announced", options.is_announced ? run.announce() : 0}};
  if (options.is_announce_only) return out;
  if (options.search) {
    const SearchResult result = run.search();
    put_search(out, options, result);
    // What the frames met at that rate.
    if (!stop && result.pps > 0) put_report(out, run.trial(result.is_sender_bound ? 0 : result.pps, options.seconds, options.warmup));
  } else {
    put_report(out, run.trial(options.learn ? *options.learn : options.rate, options.seconds, options.warmup));
  }
  out["interrupted"] = stop.load();
  return out;
}

int run_main(int argc, char** argv) {
  const TrafficOptions options = parse_options(argc, argv);
  if (options.show_help) {
    fmt::print("{}", help_text());
    return 0;
  }
  struct sigaction action {};
  action.sa_handler = [](int) { stop = true; };
  for (const int number : {SIGINT, SIGTERM}) ::sigaction(number, &action, nullptr);
  fmt::print("{}\n", measure(options).dump(options.is_one_line ? -1 : 2));
  return 0;
}

}  // namespace
}  // namespace vx::traffic

int main(int argc, char** argv) {
  try {
    return vx::traffic::run_main(argc, argv);
  } catch (const vx::traffic::UsageError& error) {
    fmt::print(stderr, "vxplane-traffic: {}\n", error.what());
    return 2;
  } catch (const std::exception& error) {
    fmt::print(stderr, "vxplane-traffic: {}\n", error.what());
    return 1;
  }
}
