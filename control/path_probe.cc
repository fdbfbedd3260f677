// SPDX-License-Identifier: Apache-2.0
#include "control/path_probe.h"

#include <algorithm>
#include <utility>

namespace vx::control {

namespace {
constexpr unsigned kConfirmations = 3;  // rounds of confirm that may contradict what was found
}  // namespace

PathProbe::PathProbe(ProbePlan plan, Milliseconds now) : plan_(std::move(plan)), started_at_(now) {
  result_.needed = plan_.needed;
  contact(0, now);
}

void PathProbe::contact(std::size_t way, Milliseconds now) {
  way_ = way;
  if (way_ >= plan_.ways.size()) return finish(ProbeVerdict::kSilent);
  gap_ = kContactGap;
  wait_ = kContactWait;
  begin(Phase::kContact, {plan_.ways[way_].smallest}, now);
}

void PathProbe::begin(Phase phase, std::vector<std::uint16_t> sizes, Milliseconds now) {
  phase_ = phase;
  round_.clear();
  for (const auto bytes : sizes)
    if (round_.empty() || round_.back().bytes != bytes) round_.push_back({bytes});
  tries_ = 0;
  next_try_ = now;
}

void PathProbe::finish(ProbeVerdict verdict) {
  result_.verdict = verdict;
  round_.clear();
}

bool PathProbe::is_round_over(Milliseconds now) const {
  const bool is_open = std::any_of(round_.begin(), round_.end(), [](const Size& size) { return !size.is_answered && !size.is_too_large; });
  return !is_open || (tries_ == kTries && now >= round_end_);
}

bool PathProbe::is_answered(std::uint16_t size) const {
  return std::any_of(round_.begin(), round_.end(), [&](const Size& one) { return one.bytes == size && one.is_answered; });
}

Milliseconds PathProbe::due() const noexcept { return tries_ < kTries ? next_try_ : round_end_; }

std::vector<ProbeShot> PathProbe::tick(Milliseconds now) {
  std::vector<ProbeShot> shots;
  while (!is_done()) {
    if (phase_ != Phase::kContact && now - started_at_ >= kLongest) {
      finish(ProbeVerdict::kUnsure);
    } else if (is_round_over(now)) {
      end_round(now);
    } else if (tries_ < kTries && now >= next_try_) {
      for (const auto& size : round_) {
        if (size.is_answered || size.is_too_large) continue;
        sent_.push_back({plan_.ways[way_].method, size.bytes, now});
        shots.push_back({static_cast<std::uint32_t>(sent_.size()), sent_.back().method, size.bytes});
      }
      ++tries_;
      next_try_ = now + gap_;
      round_end_ = now + wait_;
    } else {
      break;
    }
  }
  return shots;
}

void PathProbe::answered(std::uint32_t sequence, Milliseconds now) {
  if (is_done() || sequence == 0 || sequence > sent_.size()) return;
  const Sent& sent = sent_[sequence - 1];
  if (result_.passes == 0) {  // the first answer; perhaps to a way that had been given up
    result_.method = sent.method;
    result_.rtt = now - sent.at;
    const auto same = std::find_if(plan_.ways.begin(), plan_.ways.end(), [&](const ProbeWay& way) { return way.method == sent.method; });
    way_ = static_cast<std::size_t>(same - plan_.ways.begin());
    gap_ = std::clamp<Milliseconds>(result_.rtt + 30, 40, 120);
    wait_ = result_.rtt + result_.rtt / 2 + 60;
    for (auto& size : round_) size.is_answered = true;
  } else if (sent.method != result_.method) {
    return;
  }
  result_.passes = std::max(result_.passes, sent.size);
  for (auto& size : round_) {
    // What carries a size carries every smaller one. Except where it is asked whether anything still passes.
    if (size.bytes == sent.size || (size.bytes < sent.size && phase_ != Phase::kConfirm)) size.is_answered = true;
  }
}

void PathProbe::too_large(std::uint32_t sequence) {
  if (is_done() || sequence == 0 || sequence > sent_.size()) return;
  for (auto& size : round_)
    if (size.bytes == sent_[sequence - 1].size) size.is_too_large = true;
}

void PathProbe::narrow(Milliseconds now) {
  const std::uint16_t low = result_.passes, high = not_answered_;
  if (high - low <= 1) return begin(Phase::kConfirm, {low, static_cast<std::uint16_t>(low + 1), top_}, now);
  const unsigned between = static_cast<unsigned>(high - low - 1), count = std::min(between, kSizesAtOnce);
  std::vector<std::uint16_t> sizes;
  for (unsigned i = 1; i <= count; ++i)
    sizes.push_back(static_cast<std::uint16_t>(low + (between + 1) * i / (count + 1)));
  begin(Phase::kNarrow, std::move(sizes), now);
}

void PathProbe::end_round(Milliseconds now) {
  if (phase_ == Phase::kContact) {
    if (result_.passes == 0) return contact(way_ + 1, now);
    top_ = std::min(plan_.needed, plan_.ways[way_].largest);
    not_answered_ = top_;
    if (result_.passes < top_) return begin(Phase::kWhole, {top_}, now);
  }
  if (result_.passes >= top_) return finish(ProbeVerdict::kPasses);
  if (phase_ == Phase::kConfirm) {
    // Larger than was found, by an answer of now or a late one: on from there.
    const bool is_contradicted = result_.passes > round_.front().bytes;
    if (!is_contradicted) return finish(is_answered(result_.passes) ? ProbeVerdict::kSmaller : ProbeVerdict::kUnsure);
    if (++confirmations_ >= kConfirmations) return finish(ProbeVerdict::kUnsure);
    not_answered_ = top_;
    return narrow(now);
  }
  if (phase_ == Phase::kNarrow) {
    if (result_.passes >= not_answered_) not_answered_ = top_;
    for (const auto& size : round_)
      if (!size.is_answered && size.bytes > result_.passes) not_answered_ = std::min(not_answered_, size.bytes);
  }
  narrow(now);
}

}  // namespace vx::control
