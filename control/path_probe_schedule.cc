// SPDX-License-Identifier: Apache-2.0
#include "control/path_probe_schedule.h"

#include <algorithm>
#include <utility>

namespace vx::control {

// splitmix64: its numbers need not be secret, only differ between measurements and hosts.
std::uint32_t PathProber::random() {
  std::uint64_t z = random_ += 0x9e3779b97f4a7c15u;
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
  z = (z ^ z >> 27) * 0x94d049bb133111ebu;
  return static_cast<std::uint32_t>((z ^ z >> 31) >> 32);
}

void PathProber::watch(const std::map<IpAddress, ProbePlan>& plans, Milliseconds now) {
  std::vector<Done> orphans;
  for (auto at = paths_.begin(); at != paths_.end();) {
    if (plans.contains(at->first)) {
      ++at;
      continue;
    }
    if (at->second.probe) --running_;
    for (auto& done : at->second.waiting) orphans.push_back(std::move(done));
    at = paths_.erase(at);
  }
  for (const auto& [vtep, plan] : plans) {
    const auto [at, is_new] = paths_.try_emplace(vtep);
    Path& path = at->second;
    if (!is_new && path.plan == plan) continue;
    const bool is_first_way = path.plan.ways.empty() && !plan.ways.empty();
    if (is_new || is_first_way || path.plan.needed != plan.needed) path.due = now + random() % kAtFirst;
    path.plan = plan;
  }
  for (const auto& done : orphans) done({ProbeVerdict::kSilent});
}

bool PathProber::measure(const IpAddress& vtep, Done done, Milliseconds now) {
  const auto at = paths_.find(vtep);
  if (at == paths_.end()) return false;
  at->second.waiting.push_back(std::move(done));
  tick(now);
  return true;
}

void PathProber::suspect(const IpAddress& vtep, Milliseconds when) {
  const auto at = paths_.find(vtep);
  if (at == paths_.end() || at->second.suspected_at == when) return;
  at->second.suspected_at = when;
  if (!at->second.known || at->second.known->at < when) at->second.due = 0;
}

void PathProber::answered(ProbeId id, Milliseconds now) {
  for (auto& [vtep, path] : paths_) {
    if (!path.probe || path.run != id.run) continue;
    path.probe->answered(id.sequence, now);
    advance(vtep, path, now);
    return;
  }
}

void PathProber::tick(Milliseconds now) {
  for (auto& [vtep, path] : paths_)
    if (path.probe && now >= path.probe->due()) advance(vtep, path, now);
  // Who is waited for comes first.
  for (const bool is_asked : {true, false}) {
    for (auto& [vtep, path] : paths_) {
      if (running_ >= kAtOnce) return;
      const bool is_wanted = is_asked ? !path.waiting.empty() : now >= path.due && !path.plan.ways.empty();
      if (path.probe || !is_wanted) continue;
      path.run = random();
      path.probe = std::make_unique<PathProbe>(path.plan, now);
      ++running_;
      advance(vtep, path, now);
    }
  }
}

void PathProber::advance(const IpAddress& vtep, Path& path, Milliseconds now) {
  for (bool is_again = true; is_again;) {
    is_again = false;
    for (const auto& shot : path.probe->tick(now)) {
      if (send_(vtep, shot, {path.run, shot.sequence}) != ProbeSent::kTooLarge) continue;
      path.probe->too_large(shot.sequence);
      is_again = true;  // known at once, no need to wait
    }
  }
  if (path.probe->is_done()) end(vtep, path, now);
}

void PathProber::end(const IpAddress& vtep, Path& path, Milliseconds now) {
  const ProbeResult result = path.probe->result();
  path.probe.reset();
  --running_;
  const bool is_known = result.verdict == ProbeVerdict::kPasses || result.verdict == ProbeVerdict::kSmaller;
  const Milliseconds pause = result.verdict == ProbeVerdict::kPasses ? kEvery : is_known ? kWhileSmaller : kAfterSilence;
  path.due = now + pause - pause / 10 + random() % (pause / 5);
  if (is_known) {
    const auto before = std::exchange(path.known, PathKnown{result.passes, result.needed, result.verdict == ProbeVerdict::kSmaller,
                                                            result.method, now});
    const bool is_news = before ? before->passes != result.passes || before->is_smaller != path.known->is_smaller : path.known->is_smaller;
    if (is_news) changes_.push_back({vtep, *path.known, before});
  }
  // Last: who is told may ask for more.
  for (const auto& done : std::exchange(path.waiting, {})) done(result);
}

const PathKnown* PathProber::find(const IpAddress& vtep) const {
  const auto at = paths_.find(vtep);
  return at == paths_.end() || !at->second.known ? nullptr : &*at->second.known;
}

}  // namespace vx::control
