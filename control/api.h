// SPDX-License-Identifier: Apache-2.0
// What vxctl and vxplane-control say to each other over control.sock: one JSON object a line, each way.
//
// SOCK_STREAM, UTF-8, a line ends with \n. A client sends one request a line and gets one reply line for each,
// in order; it may send several and may close at any time. `monitor` turns the connection into a stream.
//
//   request  {"object":"fdb","command":"show", ...arguments as below; an absent one does not filter}
//   reply    {"ok":true,"result":R}            R is exactly what `vxctl -j` prints; {} for commands that only change
//            {"ok":false,"error":"one line","exit":1}    exit: 1 refused or not found, 2 the request is malformed
//            optional in both: "notes":["one line",...]  warnings and further problems; vxctl prints them on stderr
//            optional with a result: "exit":1,"advice":"one line"    the result is printed, and it is bad news (mtu): what to do
//   stream   {"event":E} lines behind an {"ok":true,"result":{}} until the client closes
//
// Arguments. MACs are lower case with colons, IP addresses in their canonical text (inet_ntop), VLANs numbers.
//   fdb show     mac vlan dev dst kind="dynamic"|"static"      kind static: what is not learned (static, permanent, sticky, blackhole)
//   fdb get      mac vlan dev                                  no match: error, exit 1. vlan absent: bridge-pvid
//   fdb add      mac vlan, one of dev=PORT | dst=IP | blackhole=true; kind="static"|"sticky" (absent: static)
//                With several VNIs, dev=VXLAN-NAME beside dst or blackhole says which.
//   fdb del      mac vlan dev                                  vlan absent: bridge-pvid
//   fdb flush    kind="all"|"static"|"dynamic" (always sent) vlan dev dst
//   fdb count, fdb monitor                                     -
//   vtep show    -                vtep add, vtep del    dst [dev=VXLAN-NAME]
//   port show    -                port add    name options="driver=tap bridge-access=100"   (a [port] line behind its name)
//                                 port del    name
//   vlan show, stats show, drops show, status show, reload run -
//   mtu show     -                mtu probe   dst              absent: every VTEP. Takes up to five seconds a VTEP
//
// Results. A field that has nothing to say is absent, never null.
//   fdb show, fdb get   [{"mac","ifname","dst","vlan","used","updated","flags":[...],"master","state"}]
//                flags: "self" (the entry is in the tunnel's own table: flood list, netdev mode), "sticky", "blackhole";
//                state: "" learned, "static", "permanent" (flood list). used, updated: whole seconds since; absent on the flood list.
//                One FDB entry is one object; the flood list is one object per VTEP with mac 00:00:00:00:00:00 and no vlan.
//                A blackhole entry has ifname = master = the bridge. fdb get: an array of one.
//   fdb count    {"current","static","limit","learned","expired","evicted","moved","refused"}
//   fdb flush    {"removed":N}
//   fdb monitor  event: {"what":"added"|"moved"|"deleted"|"expired"|"refused", ...the fields of an fdb entry}
//   vtep show    [{"dst","flood":bool,"state":"reachable"|"unresolved","mac","port"}]   port: UDP; mac absent while unresolved;
//                with several VNIs also "ifname": the vxlan's name; once its path has been measured "path_mtu", the largest outer
//                IP packet that passes (at most what the underlay's MTU asks for), and "path_mtu_age", whole seconds since
//   port show    [{"name","role":"guest"|"underlay","driver","state":"up"|"down"|"waiting","mac","mtu","rx_queues","tx_queues",
//                "rx_missed","tx_errors","learned","limit","storm_pps","ifname","text"}]    rx_missed, tx_errors: frames that kernel
//                or device lost before or after us (ring full, refused), not in `stats`; learned: FDB entries behind it; ifname: its overlay's vxlan name;
//                text: why it is not up (one line); driver as in the configuration, "dpdk:DEVARGS" included
//   vlan show    [{"ifname","vlans":[{"vlan":1,"flags":["PVID","Egress Untagged"]},{"vlan":2,"vlanEnd":4094}]}]   as `bridge -j vlan`;
//                the tunnel is in it under the vxlan's name
//   stats show   {"ports":{NAME:{"rx_packets","rx_bytes","tx_packets","tx_bytes","rx_dropped","tx_dropped"}},"drops":{...},"xdp":{EXIT:N},
//                "totals":{"received","cloned","generated","segmented","sent","dropped","consumed","coalesced","held"},
//                "workers":[{"lcore","polls","busy_polls","packets"}],
//                "too_big":{"told","limited"},    packet-too-big messages sent to senders, and those kept back by the limit
//                "fragments":{"received","reassembled","lost"}}    of outer datagrams, where we reassemble them; reassembled: datagrams
//   drops show   {REASON:N} all reasons, zeros included, in the order of drop_reason.h
//   status show  {"control":{"version","pid","uptime_s"},
//                "dataplane":{"state":"connected"|"unreachable","pid","uptime_s","workers","hugepages":bool},
//                "underlay":{"device","driver","state","vlan","mtu","vtep_address":"kernel"|"own"},
//                "overlays":[{"name","vni","mode":"bridge"|"netdev","local","port","mtu","master","ports","vteps","vteps_reachable","fdb","fdb_limit"}],
//                "problems":["one line",...]}                  problems: what the operator should look at; empty when all is well
//   mtu show     [{"ifname","mtu","underlay_mtu","device","family":"ipv4"|"ipv6",
//                "overhead":{"ip","udp","vxlan","ethernet","total"},"ceiling":{"untagged","tagged","double_tagged"},
//                "margin","device_mtu","verdict":"ok"|"warning"|"error","text","problems":[...],
//                "ports":[{"name","mtu"}],"vteps":[{"dst","mtu","ceiling","by":"route"|"probe"}]}]
//                device_mtu: of the underlay's netdev now; margin: what the overlay MTU leaves below the ceiling that counts (tagged where
//                the tunnel carries tags), may be negative; ports: only those whose netdev has another MTU than the overlay; vteps:
//                only those whose path is smaller than the underlay, by: who says so; problems: a line each with what to do, text: the
//                worst one. exit 1 and advice with any verdict but ok
//   mtu probe    [{"dst","needed","passes","method":"tunnel"|"echo","verdict":"ok"|"small"|"silent"|"unsure","rtt_ms","text"}]
//                outer IP packets, bytes; method: how it was answered; passes, method, rtt_ms absent when nobody answered; text: one line.
//                exit 1 and advice with any verdict but ok. ok with passes below needed: larger ones cannot be sent
//   reload run   {"changes":["one line",...]}
#pragma once

#include <cstddef>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

namespace vx::control {

// Keeps the order of the fields: the text of a reply is as documented above. Both ends use it.
using Json = nlohmann::ordered_json;

namespace api {

inline constexpr std::string_view kSocketName = "control.sock";
inline constexpr std::string_view kDefaultRunDir = "/run/vxplane";
inline constexpr std::size_t kMaxRequestBytes =
    64 * 1024;  // a longer line is malformed: the server closes

enum class Exit : int { kDone = 0, kRefused = 1, kUsage = 2, kUnreachable = 3 };

[[nodiscard]] inline Json ok(Json result = Json::object()) {
  return Json{{"ok", true}, {"result", std::move(result)}};
}
// `text`: one line, what and what to do, without the program's name and without a final newline.
[[nodiscard]] inline Json error(std::string_view text, Exit exit = Exit::kRefused) {
  return Json{{"ok", false}, {"error", text}, {"exit", static_cast<int>(exit)}};
}
[[nodiscard]] inline Json event(Json what) { return Json{{"event", std::move(what)}}; }

// One message as it goes over the socket; bytes that are not UTF-8 (a netdev's name) are replaced, never thrown on.
[[nodiscard]] inline std::string encode(const Json& message) {
  return message.dump(-1, ' ', false, Json::error_handler_t::replace) + '\n';
}
// A line's object; empty when it is not a JSON object. Never throws on what the peer sent.
[[nodiscard]] inline std::optional<Json> decode(std::string_view line) {
  Json message = Json::parse(line, nullptr, /*allow_exceptions=*/false);
  if (!message.is_object()) return std::nullopt;
  return message;
}
// Field `key` as T; empty when absent or of another type (a number out of T's range included).
template <typename T>
[[nodiscard]] std::optional<T> field(const Json& message, std::string_view key) {
  const auto it = message.find(std::string(key));
  if (it == message.end()) return std::nullopt;
  if constexpr (std::is_same_v<T, bool>) {
    if (!it->is_boolean()) return std::nullopt;
  } else if constexpr (std::is_same_v<T, std::string>) {
    if (!it->is_string()) return std::nullopt;
  } else {
    static_assert(std::is_unsigned_v<T>);
    if (!it->is_number_integer() ||
        (!it->is_number_unsigned() && it->template get<std::int64_t>() < 0))
      return std::nullopt;
    if (it->template get<std::uint64_t>() > static_cast<T>(-1)) return std::nullopt;
  }
  return it->template get<T>();
}

// Cuts a byte stream into lines.
class LineBuffer {
 public:
  void append(std::string_view bytes) { pending_.append(bytes); }
  // The next whole line without its newline.
  [[nodiscard]] std::optional<std::string> next() {
    const auto end = pending_.find('\n', searched_);
    if (end == std::string::npos) {
      searched_ = pending_.size();
      return std::nullopt;
    }
    std::string line = pending_.substr(0, end);
    pending_.erase(0, end + 1);
    searched_ = 0;
    return line;
  }
  // Bytes of the unfinished line: compare with kMaxRequestBytes after next() gave nothing.
  [[nodiscard]] std::size_t pending_bytes() const { return pending_.size(); }

 private:
  std::string pending_;
  std::size_t searched_ = 0;
};

}  // namespace api
}  // namespace vx::control
