// SPDX-License-Identifier: Apache-2.0
// What vxctl understands, as a table: the parser, the help and the tests read it. Constants; any thread.
#pragma once

#include <array>
#include <string_view>

namespace vx::control::syntax {

// What may stand behind a command. A bit each.
enum Accepts : unsigned {
  kNothing = 0,
  kMac = 1u << 0,  // a bare MAC address
  kMacNeeded = 1u << 1,
  kVlan = 1u << 2,     // vlan V
  kDev = 1u << 3,      // dev NAME
  kDst = 1u << 4,      // dst IP
  kDynamic = 1u << 5,  // the word `dynamic`
  kStatic = 1u << 6,
  kAll = 1u << 7,
  kSticky = 1u << 8,
  kBlackhole = 1u << 9,
  kIpNeeded = 1u << 10,    // a bare IP address
  kIp = 1u << 14,          // one that may be absent
  kNameNeeded = 1u << 11,  // a bare name
  kOptions = 1u << 12,     // key=value words
  kWatch = 1u << 13,       // --watch[=SECONDS]
};

struct Command {
  std::string_view object, name;
  unsigned accepts = kNothing;
  std::string_view usage;  // behind "vxctl OBJECT "; [show] is what an absent command means
  std::string_view help;
};

// The first command of an object is meant when none is given.
inline constexpr std::array kCommands = {
    Command{"fdb", "show", kMac | kVlan | kDev | kDst | kDynamic | kStatic,
            "[show] [MAC] [vlan V] [dev PORT] [dst IP] [dynamic|static]",
            "entries, in the field order of `bridge fdb show`"},
    Command{"fdb", "get", kMac | kMacNeeded | kVlan | kDev, "get MAC [vlan V]",
            "one entry; exit 1 when there is none"},
    Command{"fdb", "add", kMac | kMacNeeded | kVlan | kDev | kDst | kBlackhole | kStatic | kSticky,
            "add MAC [vlan V] {dev PORT | dst IP | blackhole} [static|sticky]",
            "default: static, in the VLAN of bridge-pvid"},
    Command{"fdb", "del", kMac | kMacNeeded | kVlan | kDev, "del MAC [vlan V]",
            "learned entries too"},
    Command{"fdb", "flush", kAll | kStatic | kDynamic | kVlan | kDev | kDst,
            "flush [all|static|dynamic] [vlan V] [dev PORT] [dst IP]",
            "default: dynamic; the flood list stays"},
    Command{"fdb", "count", kNothing, "count",
            "current, static, limit, learned, expired, evicted, moved, refused"},
    Command{"fdb", "monitor", kNothing, "monitor", "one line an event, until interrupted"},
    Command{"vtep", "show", kNothing, "[show]", "remote VTEPs and whether they are resolved"},
    Command{"vtep", "add", kIpNeeded | kDev, "add IP [dev VXLAN]",
            "a remote VTEP, on the flood list"},
    Command{"vtep", "del", kIpNeeded | kDev, "del IP [dev VXLAN]", "and the FDB entries behind it"},
    Command{"port", "show", kNothing, "[show]", "ports, and why one is not up"},
    Command{"port", "add", kNameNeeded | kOptions, "add NAME driver=DRIVER [KEY=VALUE]...",
            "the keys of a [port] line"},
    Command{"port", "del", kNameNeeded, "del NAME", "and the FDB entries behind it"},
    Command{"vlan", "show", kNothing, "[show]", "VLANs of every port and of the tunnel"},
    Command{"stats", "show", kWatch, "[show] [--watch[=SECONDS]]",
            "counters; --watch: rates, until interrupted"},
    Command{"drops", "show", kNothing, "",
            "dropped packets by reason; -s: reasons that never happened too"},
    Command{"status", "show", kNothing, "",
            "control, dataplane, underlay, overlays, and what is wrong"},
    Command{"mtu", "show", kNothing, "[show]",
            "how large guests' packets may be, and why; exit 1 when something does not add up"},
    Command{"mtu", "probe", kIp, "probe [IP]",
            "measures the paths to all VTEPs, or to one; exit 1 when one is too small or silent"},
    Command{"bypass", "show", kNothing, "[show]",
            "takeover: whether the kernel forwards instead of vxplane, and why"},
    Command{"bypass", "on", kNothing, "on", "the kernel forwards from now on, also over restarts; nothing is lost"},
    Command{"bypass", "off", kNothing, "off", "vxplane forwards again as soon as everything is installed"},
    Command{"reload", "run", kNothing, "", "read the configuration again"},
};

// Other words for a command of the table, as `bridge` has them.
struct Alias {
  std::string_view word, name;
};
inline constexpr std::array kAliases = {Alias{"list", "show"}, Alias{"lst", "show"},
                                        Alias{"delete", "del"}};

}  // namespace vx::control::syntax
