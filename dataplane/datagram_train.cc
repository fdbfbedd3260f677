// SPDX-License-Identifier: Apache-2.0
#include "dataplane/datagram_train.h"

#include <algorithm>
#include <cstring>

#include "dataplane/super_frame.h"

namespace vx {

DatagramTrain::DatagramTrain(const Packet& packet, std::uint16_t vxlan) noexcept
    : vxlan_(packet.data + vxlan), inner_(packet), reason_(DropReason::kGuestBadOffload) {
  const auto front = static_cast<std::uint16_t>(vxlan + sizeof(VxlanHeader));
  if (packet.length <= front) return;
  inner_.pull_front(front);
  inner_.offload.shift(-int{front});
  SuperFrame at;
  reason_ = parse_super_frame(inner_, at);
  if (reason_ == DropReason::kNone) cut_.emplace(inner_, at);
}

unsigned DatagramTrain::at_once() const noexcept {
  return std::min<unsigned>(kMaxTrainDatagrams, kMaxTrainBytes / longest());
}

std::uint32_t DatagramTrain::write(unsigned first, unsigned count, std::uint8_t* to) const noexcept {
  const std::uint8_t* const begin = to;
  for (unsigned i = 0; i < count; ++i) {
    std::memcpy(to, vxlan_, sizeof(VxlanHeader));
    Packet segment;
    segment.data = to + sizeof(VxlanHeader);
    segment.tailroom = cut_->longest();
    (void)cut_->make(first + i, segment);
    to = segment.data + segment.length;
  }
  return static_cast<std::uint32_t>(to - begin);
}

}  // namespace vx
