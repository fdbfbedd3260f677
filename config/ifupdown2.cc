// SPDX-License-Identifier: Apache-2.0
// Stanzas of /etc/network/interfaces. Lenient as ifupdown2 is: what it does not know belongs to
// somebody else's module.
#include "config/ifupdown2.h"

#include <fmt/format.h>
#include <glob.h>
#include <sys/stat.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <memory>

#include "config/ini.h"
#include "config/values.h"

namespace vx::config {
namespace {

namespace fs = std::filesystem;

std::string trimmed(const std::string& text) {
  const std::size_t begin = text.find_first_not_of(" \t");
  return begin == std::string::npos ? ""
                                    : text.substr(begin, text.find_last_not_of(" \t") - begin + 1);
}

std::string beside(const std::string& file, const std::string& path) {
  return fs::path(path).is_absolute()
             ? path
             : (fs::path(file).parent_path() / path).lexically_normal().string();
}

std::vector<std::string> matches_of(const std::string& pattern) {
  glob_t found{};
  std::vector<std::string> paths;
  if (glob(pattern.c_str(), 0, nullptr, &found) == 0)  // sorted
    paths.assign(found.gl_pathv, found.gl_pathv + found.gl_pathc);
  globfree(&found);
  std::erase_if(paths, [](const std::string& path) { return fs::is_directory(path); });
  return paths;
}

// interfaces(5): names of letters, digits, '_' and '-' only.
std::vector<std::string> files_in(const std::string& directory) {
  std::vector<std::string> paths;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(directory, error)) {
    const std::string name = entry.path().filename().string();
    const bool is_plain = std::all_of(name.begin(), name.end(), [](unsigned char c) {
      return std::isalnum(c) != 0 || c == '_' || c == '-';
    });
    if (is_plain && entry.is_regular_file(error)) paths.push_back(entry.path().string());
  }
  std::sort(paths.begin(), paths.end());
  return paths;
}

bool is_other_keyword(const std::string& word) {
  return word == "auto" || word.starts_with("allow-") || word == "mapping" || word == "rename" ||
         word == "template" || word == "no-auto-down" || word == "no-scripts" || word == "vlan";
}

class Reader {
 public:
  Reader(std::string path, Interfaces& out) : path_(std::move(path)), out_(out) {}

  void read(const std::vector<std::string>& lines) {
    for (std::size_t i = 0; i < lines.size();) {
      const auto number = static_cast<unsigned>(i + 1);
      std::string line = trimmed(lines[i++]);
      if (line.starts_with('#')) continue;
      while (line.ends_with('\\')) {  // interfaces(5): the next line continues this one
        line.pop_back();
        if (i < lines.size()) line += " " + trimmed(lines[i++]);
      }
      if (!line.empty()) read_line(trimmed(line), {path_, number});
    }
  }

 private:
  void read_line(const std::string& line, const Origin& origin) {
    const std::size_t blank = line.find_first_of(" \t");
    const std::string word = line.substr(0, blank);
    const std::string rest = blank == std::string::npos ? "" : trimmed(line.substr(blank));
    if (word == "iface") {
      open_stanza(rest, origin);
    } else if (word == "source" || word == "source-directory") {
      stanza_ = kNone;
      source(word, rest, origin);
    } else if (is_other_keyword(word)) {
      stanza_ = kNone;
      ignores_ = word != "auto" && !word.starts_with("allow-");
    } else if (stanza_ != kNone) {
      out_.stanzas[stanza_].attributes.push_back({dashed(word), rest, origin});
    } else if (!ignores_) {
      out_.problems.push_back({origin.file, origin.line, word,
                               "stands in no iface stanza: not read", Severity::kWarning});
    }
  }

  void open_stanza(const std::string& rest, const Origin& origin) {
    const std::vector<std::string> words = split_words(rest);
    ignores_ = words.empty();
    stanza_ = kNone;
    if (words.empty()) {
      out_.problems.push_back(
          {origin.file, origin.line, "iface", "names no interface: not read", Severity::kWarning});
      return;
    }
    const auto same = std::find_if(out_.stanzas.begin(), out_.stanzas.end(),
                                   [&](const Stanza& s) { return s.name == words[0]; });
    stanza_ = static_cast<std::size_t>(same - out_.stanzas.begin());
    if (same == out_.stanzas.end()) out_.stanzas.push_back({words[0], origin, {}});
  }

  void source(const std::string& word, const std::string& what, const Origin& origin) {
    const std::string path = beside(path_, what);
    const bool is_pattern = what.find_first_of("*?[") != std::string::npos;
    std::vector<std::string> paths;
    if (word == "source-directory")
      paths = files_in(path);
    else if (is_pattern)
      paths = matches_of(path);
    else
      paths = {path};
    for (const std::string& found : paths) read_interfaces(found, origin, word, out_);
  }

  static constexpr std::size_t kNone = ~std::size_t{0};
  std::string path_;
  Interfaces& out_;
  std::size_t stanza_ = kNone;
  bool ignores_ = false;  // inside of something that is no interface
};

// The number at the end of a name such as vlan4003; 0: none.
std::uint16_t trailing_vid(const std::string& name) {
  const std::size_t last = name.find_last_not_of("0123456789");
  std::uint16_t vid = 0;
  const std::string digits = last == std::string::npos ? name : name.substr(last + 1);
  return read_number(digits, 1, kMaxVid, vid).empty() ? vid : std::uint16_t{0};
}

}  // namespace

const Attribute* Stanza::find(std::string_view key) const {
  const std::vector<const Attribute*> all = find_all(key);
  return all.empty() ? nullptr : all.back();
}

std::vector<const Attribute*> Stanza::find_all(std::string_view key) const {
  std::vector<const Attribute*> all;
  for (const Attribute& attribute : attributes)
    if (attribute.key == key) all.push_back(&attribute);
  return all;
}

const Stanza* Interfaces::find(std::string_view name) const {
  for (const Stanza& stanza : stanzas)
    if (stanza.name == name) return &stanza;
  return nullptr;
}

void read_interfaces(const std::string& path, const Origin& asked_at, const std::string& key,
                     Interfaces& out) {
  std::error_code error;
  const fs::path real = fs::canonical(path, error);
  if (!error && !out.files.insert(real.string()).second)
    return;  // also ends files that source each other
  std::string why;
  const auto lines = read_lines(path, why);
  if (!lines) {
    const Severity severity = key == "interfaces" ? Severity::kError : Severity::kWarning;
    out.problems.push_back(
        {asked_at.file, asked_at.line, key, path + " cannot be read: " + why, severity});
    return;
  }
  Reader(path, out).read(*lines);
}

std::vector<AddressAt> addresses_of(const Stanza& stanza, std::vector<Problem>& problems) {
  std::vector<AddressAt> found;
  for (const Attribute& attribute : stanza.attributes) {
    const std::vector<std::string> words = split_words(attribute.value);
    if (words.empty()) continue;
    Complaint complaint;
    if (attribute.key == "address") {
      AddressAt at{{}, attribute.origin};
      complaint = read_interface_address(words[0], at.address);
      if (complaint.empty()) found.push_back(at);
    } else if (attribute.key == "netmask" && !found.empty()) {
      complaint = read_netmask(words[0], found.back().address);
    }
    if (!complaint.empty())
      problems.push_back({attribute.origin.file, attribute.origin.line, attribute.key,
                          complaint + ": not used", Severity::kWarning});
  }
  return found;
}

VlanOf vlan_of(const Stanza& stanza) {
  const Attribute* raw = stanza.find("vlan-raw-device");
  const Attribute* id = stanza.find("vlan-id");
  if (raw != nullptr) {
    VlanOf vlan{raw->value, trailing_vid(stanza.name)};
    std::uint16_t given = 0;
    if (id != nullptr && read_number(id->value, 1, kMaxVid, given).empty()) vlan.vid = given;
    return vlan;
  }
  const std::size_t dot = stanza.name.rfind('.');
  if (dot != std::string::npos && dot != 0)
    if (const std::uint16_t vid = trailing_vid(stanza.name.substr(dot)); vid != 0)
      return {stanza.name.substr(0, dot), vid};
  return {stanza.name, 0};
}

}  // namespace vx::config
