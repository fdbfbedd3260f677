// SPDX-License-Identifier: Apache-2.0
// One file: INI entries, then imported entries for the keys that the INI does not give, each read
// by the table of keys; then what follows from them (settle.cc).
#include "config/load.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <tuple>

#include "config/keys.h"
#include "config/settle.h"
#include "config/stanza_import.h"

namespace vx::config {
namespace {

constexpr std::string_view kInterfaces = "interfaces";

class Loader {
 public:
  Loader(const std::string& path, const HostFacts& facts) : path_(path), facts_(facts) {}

  LoadResult run() {
    IniFile ini = read_ini(path_);
    draft_.settings.source = path_;
    draft_.sections = std::move(ini.sections);
    draft_.problems = std::move(ini.problems);
    if (ini.entries.empty() && !draft_.problems.empty())
      return finish();  // unreadable: the rest is no news
    for (Entry& entry : ini.entries) add(std::move(entry));
    if (!interfaces_.empty()) import();
    read_values();
    if (!draft_.settings.bridge.takeover.empty()) note_given();
    settle(draft_, facts_);
    return finish();
  }

 private:
  void tell(const Origin& origin, const std::string& key, std::string text) {
    draft_.problems.push_back({origin.file, origin.line, key, std::move(text), Severity::kError});
  }

  void add(Entry entry) {
    if (entry.key == kInterfaces) {
      if (entry.section.empty()) return interfaces_.push_back(std::move(entry));
      return tell(entry.origin, entry.key, "stands at the top of the file, before any section");
    }
    const Key* key = find_key(entry.section, entry.key);
    if (key == nullptr) return tell(entry.origin, entry.key, unknown_text(entry));
    std::vector<Entry>& given = draft_.entries[entry.section + "." + entry.key];
    if (!key->is_repeatable && !given.empty())
      return tell(entry.origin, entry.key,
                  fmt::format("is given already on line {}", given.front().origin.line));
    given.push_back(std::move(entry));
  }

  static std::string unknown_text(const Entry& entry) {
    std::vector<std::string> sections, here, elsewhere;
    for (const Key& key : all_keys()) {
      if (std::find(sections.begin(), sections.end(), key.section) == sections.end())
        sections.emplace_back(key.section);
      if (key.section == entry.section) here.emplace_back(key.name);
      if (key.name == entry.key) elsewhere.push_back(fmt::format("[{}]", key.section));
    }
    if (entry.section.empty())
      return elsewhere.empty()
                 ? fmt::format("is unknown; only '{}' stands before the sections", kInterfaces)
                 : fmt::format("belongs into {}", fmt::join(elsewhere, " or "));
    if (here.empty()) {
      const std::string near = nearest(entry.section, sections);
      return fmt::format("section [{}] is unknown; {}", entry.section,
                         near.empty() ? fmt::format("there are {}", fmt::join(sections, ", "))
                                      : "did you mean [" + near + "]?");
    }
    if (!elsewhere.empty())
      return fmt::format("is unknown in [{}]; it belongs into {}", entry.section,
                         fmt::join(elsewhere, " or "));
    const std::string near = nearest(entry.key, here);
    return fmt::format("is unknown in [{}]; {}", entry.section,
                       near.empty() ? fmt::format("there are {}", fmt::join(here, ", "))
                                    : "did you mean " + near + "?");
  }

  void import() {
    Interfaces read;
    for (const Entry& line : interfaces_) {
      if (line.value.empty()) {
        tell(line.origin, line.key, "names no file");
        continue;
      }
      const std::filesystem::path file(line.value);
      const auto path =
          file.is_absolute()
              ? file
              : (std::filesystem::path(path_).parent_path() / file).lexically_normal();
      read_interfaces(path.string(), line.origin, line.key, read);
    }
    const bool is_incomplete = has_error(read.problems);
    draft_.problems.insert(draft_.problems.end(), read.problems.begin(), read.problems.end());
    if (is_incomplete && read.stanzas.empty()) {
      draft_.has_import_failed = true;
      return;
    }
    ImportRequest request;
    request.origin = interfaces_.front().origin;
    request.name = draft_.first("vxlan.name");
    request.vni = draft_.first("vxlan.vxlan-id");
    request.local = draft_.first("vxlan.vxlan-local-tunnelip");
    request.device = draft_.first("underlay.device");
    request.vlan = draft_.first("underlay.vlan");
    request.remotes = draft_.entries["vxlan.vxlan-remoteip"];
    ImportResult imported = import_stanzas(read, request);
    draft_.problems.insert(draft_.problems.end(), imported.problems.begin(),
                           imported.problems.end());
    draft_.has_import_failed = imported.has_failed;
    draft_.wants_netdev_port = imported.is_bridge_port_alone;
    merge(imported.entries);
  }

  // Explicit keys win: an imported one counts only where the file itself has none. Of imported
  // single keys the first counts (the vxlan's own local address before one found by subnet).
  void merge(const std::vector<Entry>& imported) {
    std::map<std::string, std::vector<Entry>> added;
    for (const Entry& entry : imported) {
      const std::string id = entry.section + "." + entry.key;
      const Key* key = find_key(entry.section, entry.key);
      const bool is_taken = !draft_.entries[id].empty() || key == nullptr ||
                            (!key->is_repeatable && !added[id].empty());
      if (!is_taken) added[id].push_back(entry);
    }
    for (auto& [id, entries] : added)
      if (!entries.empty()) draft_.entries[id] = std::move(entries);
  }

  void read_values() {
    for (const Key& key : all_keys()) {
      const std::string id = fmt::format("{}.{}", key.section, key.name);
      for (const Entry& entry : draft_.entries[id]) {
        const std::size_t ports = draft_.settings.ports.size();
        const Complaint complaint = key.read(draft_.settings, entry.value);
        if (!complaint.empty()) {
          tell(entry.origin, entry.key, complaint);
          draft_.bad.insert(id);
        } else if (draft_.settings.ports.size() > ports) {
          draft_.port_origins.push_back(entry.origin);
        }
      }
    }
  }

  // The kernel's bridge is the rest of the configuration (control's takeover.h): ifupdown2 has made it already.
  void note_given() {
    if (!interfaces_.empty())
      tell(interfaces_.front().origin, std::string(kInterfaces),
           "with takeover the kernel itself is read: drop this line");
    for (const auto& [id, entries] : draft_.entries)
      if (!entries.empty()) draft_.settings.given.insert(id);
  }

  LoadResult finish() {
    LoadResult result;
    std::stable_sort(draft_.problems.begin(), draft_.problems.end(),
                     [](const Problem& a, const Problem& b) {
                       return std::tie(a.file, a.line) < std::tie(b.file, b.line);
                     });
    for (const auto& [id, entries] : draft_.entries)
      if (!entries.empty() && id != "port.port") result.origins[id] = entries.front().origin;
    for (std::size_t i = 0; i < draft_.port_origins.size(); ++i)
      result.origins["port." + draft_.settings.ports[i].name] = draft_.port_origins[i];
    if (!has_error(draft_.problems)) result.settings = std::move(draft_.settings);
    result.problems = std::move(draft_.problems);
    return result;
  }

  const std::string& path_;
  const HostFacts& facts_;
  std::vector<Entry> interfaces_;
  Draft draft_;
};

}  // namespace

LoadResult load(const std::string& path, const HostFacts& facts) {
  return Loader(path, facts).run();
}

Settings takeover_of(const std::string& bridge) {
  Settings settings;
  settings.source = "--takeover " + bridge;
  settings.mode = Mode::kTakeover;
  settings.bridge.name = settings.bridge.takeover = bridge;
  settings.given = {"bridge.takeover"};
  return settings;
}

bool has_error(const std::vector<Problem>& problems) {
  return std::any_of(problems.begin(), problems.end(),
                     [](const Problem& p) { return p.severity == Severity::kError; });
}

std::string to_string(const Problem& problem) {
  return fmt::format("{}{}: {}: {}{}", problem.file,
                     problem.line != 0 ? fmt::format(":{}", problem.line) : "", problem.key,
                     problem.severity == Severity::kWarning ? "warning: " : "", problem.text);
}

}  // namespace vx::config
