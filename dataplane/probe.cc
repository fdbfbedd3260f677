// SPDX-License-Identifier: Apache-2.0
#include "dataplane/probe.h"

namespace vx {

ProbeKind judge_probe(const Packet& packet) noexcept {
  if (packet.length < kProbeReplyBytes) return ProbeKind::kNone;
  const auto* ethernet = view<EthernetHeader>(packet.data);
  const auto* message = view<ProbeMessage>(packet.data + sizeof(EthernetHeader));
  if (ethernet->destination != kProbeDestination || ethernet->type != kProbeEtherType ||
      message->magic.host() != kProbeMagic || message->version != kProbeVersion)
    return ProbeKind::kNone;
  if (message->kind == static_cast<std::uint8_t>(ProbeKind::kRequest))
    return message->frame_bytes.host() == packet.length ? ProbeKind::kRequest : ProbeKind::kNone;
  const bool is_reply = message->kind == static_cast<std::uint8_t>(ProbeKind::kReply) && packet.length == kProbeReplyBytes;
  return is_reply ? ProbeKind::kReply : ProbeKind::kNone;
}

void answer_probe(Packet& packet, const IpAddress& local) noexcept {
  packet.tailroom += packet.length - kProbeReplyBytes;
  packet.length = kProbeReplyBytes;
  packet.is_tagged = false;
  packet.offload = {};
  view<EthernetHeader>(packet.data)->source = probe_source_mac(local);
  view<ProbeMessage>(packet.data + sizeof(EthernetHeader))->kind = static_cast<std::uint8_t>(ProbeKind::kReply);
}

}  // namespace vx
