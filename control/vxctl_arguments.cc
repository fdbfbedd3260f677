// SPDX-License-Identifier: Apache-2.0
// Words to a request. The grammar is the table of vxctl_syntax.h; only what a table cannot say is code here.
#include "control/vxctl_arguments.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <vector>

#include "control/text.h"
#include "control/vxctl_syntax.h"

namespace vx::control {
namespace {

using syntax::Command;
using Words = std::span<const std::string>;

struct Candidate {
  std::string_view word, name;  // what may be typed, what it means
};

// The one name that `word` stands for: an exact match, or the only one it is a prefix of. Empty: none.
// Throws when several fit.
std::string_view match(std::string_view word, std::span<const Candidate> candidates,
                       std::string_view kind) {
  std::vector<std::string_view> names;
  for (const auto& candidate : candidates) {
    if (candidate.word == word) return candidate.name;
    if (!word.empty() && candidate.word.starts_with(word) &&
        std::ranges::find(names, candidate.name) == names.end()) {
      names.push_back(candidate.name);
    }
  }
  if (names.empty()) return {};
  if (names.size() > 1)
    throw UsageError(fmt::format("{} \"{}\" is ambiguous: {}", kind, word, fmt::join(names, ", ")));
  return names.front();
}

std::vector<Candidate> object_candidates() {
  std::vector<Candidate> out;
  for (const auto& command : syntax::kCommands) {
    if (out.empty() || out.back().name != command.object)
      out.push_back({command.object, command.object});
  }
  out.push_back({"help", "help"});
  return out;
}

const Command* find_command(std::string_view object, std::string_view name) {
  const auto it = std::ranges::find_if(
      syntax::kCommands, [&](const Command& c) { return c.object == object && c.name == name; });
  return it == syntax::kCommands.end() ? nullptr : &*it;
}

std::vector<Candidate> command_candidates(std::string_view object) {
  std::vector<Candidate> out{{"help", "help"}};
  for (const auto& command : syntax::kCommands) {
    if (command.object == object) out.push_back({command.name, command.name});
  }
  for (const auto& alias : syntax::kAliases) {
    if (find_command(object, alias.name) != nullptr) out.push_back({alias.word, alias.name});
  }
  return out;
}

std::string usage_of(const Command& command) {
  return fmt::format("vxctl {}{}{}", command.object, command.usage.empty() ? "" : " ",
                     command.usage);
}

[[noreturn]] void fail(const Command& command, std::string_view what) {
  throw UsageError(fmt::format("{}; usage: {}", what, usage_of(command)));
}

// The words behind OBJECT COMMAND.
class ArgumentParser {
 public:
  ArgumentParser(const Command& command, Words words, Json& request)
      : command_(command), words_(words), request_(request) {}

  void run() {
    while (!words_.empty()) take_one();
    if (accepts(syntax::kMacNeeded) && !request_.contains("mac"))
      fail(command_, "a MAC address is missing");
    if (accepts(syntax::kIpNeeded) && !request_.contains("dst"))
      fail(command_, "an IP address is missing");
    if (accepts(syntax::kNameNeeded) && !request_.contains("name"))
      fail(command_, "a name is missing");
    if (accepts(syntax::kOptions))
      request_["options"] = fmt::format("{}", fmt::join(options_, " "));
    if (command_.object == "fdb" && command_.name == "add") check_fdb_add();
    if (command_.object == "fdb" && command_.name == "flush" && !request_.contains("kind"))
      request_["kind"] = "dynamic";
  }

 private:
  [[nodiscard]] bool accepts(unsigned what) const { return (command_.accepts & what) != 0; }

  void set(std::string_view key, Json value) {
    if (request_.contains(key))
      fail(command_, fmt::format("{} is given twice",
                                 key == "kind" ? "static, dynamic, sticky or all" : key));
    request_[std::string(key)] = std::move(value);
  }

  std::string next(std::string_view of) {
    if (words_.empty()) fail(command_, fmt::format("{} needs a value", of));
    std::string word = words_.front();
    words_ = words_.subspan(1);
    return word;
  }

  [[nodiscard]] std::string ip(const std::string& word) const {
    const auto address = parse_ip(word);
    if (!address) fail(command_, fmt::format("\"{}\" is not an IP address", word));
    return format_ip(*address);
  }

  void take_one() {
    const std::string word = next("");
    if (accepts(syntax::kNameNeeded) && !request_.contains("name")) return set("name", word);
    if (accepts(syntax::kOptions)) {
      if (word.find('=') == std::string::npos)
        fail(command_, fmt::format("\"{}\" is not KEY=VALUE", word));
      options_.push_back(word);
      return;
    }
    if (accepts(syntax::kMac)) {
      if (const auto mac = parse_mac(word)) return set("mac", format_mac(*mac));
    }
    if (accepts(syntax::kIpNeeded | syntax::kIp) && !request_.contains("dst")) return set("dst", ip(word));
    take_keyword(word);
  }

  void take_keyword(const std::string& word) {
    std::vector<Candidate> keywords;
    const auto may = [&](unsigned what, std::string_view keyword) {
      if (accepts(what)) keywords.push_back({keyword, keyword});
    };
    may(syntax::kVlan, "vlan");
    may(syntax::kDev, "dev");
    may(syntax::kDst, "dst");
    may(syntax::kDynamic, "dynamic");
    may(syntax::kStatic, "static");
    may(syntax::kAll, "all");
    may(syntax::kSticky, "sticky");
    may(syntax::kBlackhole, "blackhole");
    const std::string_view keyword = match(word, keywords, "filter");
    if (keyword.empty()) {
      const bool looks_like_mac =
          accepts(syntax::kMac) && word.find_first_of(":-") != std::string::npos;
      fail(command_,
           fmt::format("\"{}\" is {}", word, looks_like_mac ? "not a MAC address" : "unknown"));
    }
    if (keyword == "vlan") {
      const std::string number = next(keyword);
      const auto vlan = parse_number(number, 4094);
      if (!vlan || *vlan == 0) fail(command_, fmt::format("vlan \"{}\" is not 1 to 4094", number));
      set("vlan", *vlan);
    } else if (keyword == "dev") {
      set("dev", next(keyword));
    } else if (keyword == "dst") {
      set("dst", ip(next(keyword)));
    } else if (keyword == "blackhole") {
      set("blackhole", true);
    } else {
      set("kind", keyword);
    }
  }

  void check_fdb_add() const {
    const bool blackhole = request_.contains("blackhole"), dst = request_.contains("dst"),
               dev = request_.contains("dev");
    if (blackhole && dst) fail(command_, "blackhole and dst exclude each other");
    if (!blackhole && !dst && !dev) fail(command_, "say where: dev PORT, dst IP or blackhole");
  }

  const Command& command_;
  Words words_;
  Json& request_;
  std::vector<std::string> options_;
};

// What options leave over, and the options.
struct Split {
  std::vector<std::string> words;
  bool help = false, version = false, watch = false;
};

unsigned parse_watch(std::string_view seconds) {
  const auto number = parse_number(seconds, 86400);
  if (!number || *number == 0)
    throw UsageError(fmt::format("--watch=\"{}\" is not 1 to 86400 seconds", seconds));
  return *number;
}

void take_short_options(std::string_view letters, VxctlCommand& out, Split& split) {
  for (const char letter : letters) {
    switch (letter) {
      case 'j': out.json = true; break;
      case 's': out.statistics = true; break;
      case 'h': split.help = true; break;
      case 'V': split.version = true; break;
      default:
        throw UsageError(fmt::format("option \"-{}\" is unknown, try \"vxctl help\"", letter));
    }
  }
}

Split split_options(Words words, VxctlCommand& out) {
  Split split;
  for (std::size_t i = 0; i < words.size(); ++i) {
    const std::string_view word = words[i];
    if (word == "--json") {
      out.json = true;
    } else if (word == "--statistics") {
      out.statistics = true;
    } else if (word == "--help") {
      split.help = true;
    } else if (word == "--version") {
      split.version = true;
    } else if (word == "--run-dir") {
      if (++i == words.size()) throw UsageError("--run-dir needs a directory");
      out.run_dir = words[i];
    } else if (word.starts_with("--run-dir=")) {
      out.run_dir = word.substr(10);
    } else if (word == "--watch") {
      out.watch_s = 1;
    } else if (word.starts_with("--watch=")) {
      out.watch_s = parse_watch(word.substr(8));
    } else if (word.starts_with("--")) {
      throw UsageError(fmt::format("option \"{}\" is unknown, try \"vxctl help\"", word));
    } else if (word.size() > 1 && word.front() == '-') {
      take_short_options(word.substr(1), out, split);
    } else {
      split.words.emplace_back(word);
    }
  }
  return split;
}

// The command that `words` begin with, which are shortened by it; the object's first one when they begin with
// a filter or are at their end. Null: help is asked for.
const Command* take_command(std::string_view object, Words& words) {
  const Command* const by_default = &*std::ranges::find_if(
      syntax::kCommands, [&](const Command& c) { return c.object == object; });
  if (words.empty()) return by_default;
  const std::string_view name = match(words.front(), command_candidates(object), "command");
  if (name == "help") return nullptr;
  if (!name.empty()) {
    words = words.subspan(1);
    return find_command(object, name);
  }
  if (by_default->accepts & syntax::kMac)
    return by_default;  // `vxctl fdb dev tap0`: filters of `show`
  throw UsageError(
      fmt::format("command \"{}\" is unknown, try \"vxctl {} help\"", words.front(), object));
}

}  // namespace

std::string help_text(std::string_view object) {
  std::string out;
  if (object.empty()) {
    out =
        "Usage: vxctl [--run-dir D] [-j|--json] [-s] OBJECT [COMMAND] [FILTERS]\n"
        "       vxctl OBJECT help | --version\n"
        "OBJECT := { fdb | vtep | port | vlan | stats | drops | status | mtu | bypass | reload }\n"
        "Objects, commands and filters may be abbreviated: vxctl f s\n"
        "  -j, --json         machine readable\n"
        "  -s, --statistics   more: `used A/B` (seconds since used/updated) in fdb\n"
        "  --run-dir D        where control.sock is (default: $VXPLANE_RUN_DIR, /run/vxplane)\n"
        "Exit: 0 done, 1 refused or not found, 2 usage, 3 control unreachable\n\n";
  } else {
    out = "Usage:\n";
  }
  for (const auto& command : syntax::kCommands) {
    if (!object.empty() && command.object != object) continue;
    out += fmt::format("  {}\n", usage_of(command));
    if (!object.empty()) out += fmt::format("      {}\n", command.help);
  }
  return out;
}

VxctlCommand parse_command_line(Words words) {
  VxctlCommand out;
  const Split split = split_options(words, out);
  Words rest = split.words;
  if (split.version) {
    out.print = "vxctl " VXPLANE_VERSION "\n";
    return out;
  }
  if (rest.empty()) {
    if (!split.help) throw UsageError("an object is missing, try \"vxctl help\"");
    out.print = help_text({});
    return out;
  }
  std::string_view object = match(rest.front(), object_candidates(), "object");
  if (object.empty())
    throw UsageError(fmt::format("object \"{}\" is unknown, try \"vxctl help\"", rest.front()));
  rest = rest.subspan(1);
  if (object == "help") {  // vxctl help [OBJECT]
    if (!rest.empty()) object = match(rest.front(), object_candidates(), "object");
    out.print = help_text(object == "help" ? std::string_view{} : object);
    return out;
  }
  const bool wants_help = split.help || (!rest.empty() && rest.back() == "help");
  const Command* const command = wants_help ? nullptr : take_command(object, rest);
  if (command == nullptr) {
    out.print = help_text(object);
    return out;
  }
  if (out.watch_s != 0 && !(command->accepts & syntax::kWatch))
    fail(*command, "--watch is for stats only");
  out.object = object;
  out.command = command->name;
  out.request = Json{{"object", object}, {"command", command->name}};
  ArgumentParser(*command, rest, out.request).run();
  return out;
}

}  // namespace vx::control
