// SPDX-License-Identifier: Apache-2.0
#include "control/state_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>

#include "control/text.h"

namespace vx::control {

namespace {

using nlohmann::json;
constexpr int kVersion = 1;

json to_json(const StoredOverlay& overlay) {
  json fdb = json::array(), vteps = json::array();
  for (const auto& entry : overlay.fdb) {
    json object{{"mac", format_mac(entry.mac)}, {"vlan", entry.vlan}};
    if (!entry.port.empty()) object["dev"] = entry.port;
    if (!entry.dst.empty()) object["dst"] = entry.dst;
    if (entry.is_blackhole) object["blackhole"] = true;
    if (entry.is_sticky) object["sticky"] = true;
    fdb.push_back(std::move(object));
  }
  for (const auto& vtep : overlay.vteps)
    vteps.push_back({{"dst", vtep.dst}, {"learned", vtep.is_learned}, {"flood", vtep.flood}});
  return {{"name", overlay.name}, {"fdb", fdb}, {"vteps", vteps}, {"ports", overlay.ports}};
}

StoredOverlay from_json(const json& object) {
  StoredOverlay overlay;
  overlay.name = object.at("name").get<std::string>();
  for (const auto& item : object.value("fdb", json::array())) {
    StoredFdbEntry entry;
    const auto mac = parse_mac(item.at("mac").get<std::string>());
    if (!mac) continue;
    entry.mac = *mac;
    entry.vlan = item.at("vlan").get<std::uint16_t>();
    entry.port = item.value("dev", "");
    entry.dst = item.value("dst", "");
    entry.is_blackhole = item.value("blackhole", false);
    entry.is_sticky = item.value("sticky", false);
    overlay.fdb.push_back(std::move(entry));
  }
  for (const auto& item : object.value("vteps", json::array()))
    overlay.vteps.push_back({item.at("dst").get<std::string>(), item.value("learned", false), item.value("flood", true)});
  overlay.ports = object.value("ports", std::vector<std::string>{});
  return overlay;
}

}  // namespace

StoredState read_state(const std::string& path, std::vector<std::string>& problems) {
  StoredState state;
  std::ifstream file(path);
  if (!file) return state;
  try {
    const json document = json::parse(file);
    if (document.at("version").get<int>() != kVersion) throw std::runtime_error("of another version");
    for (const auto& object : document.at("overlays")) state.overlays.push_back(from_json(object));
    state.is_bypassed = document.value("bypass", false);
  } catch (const std::exception& error) {
    problems.push_back(fmt::format("{}: not readable, what vxctl had added is lost ({})", path, error.what()));
  }
  return state;
}

std::string write_state(const std::string& path, const StoredState& state) {
  json overlays = json::array();
  for (const auto& overlay : state.overlays) overlays.push_back(to_json(overlay));
  const std::string text =
      json{{"version", kVersion}, {"bypass", state.is_bypassed}, {"overlays", overlays}}.dump(1, ' ', false, json::error_handler_t::replace) + '\n';
  const std::string temporary = path + ".new";
  const auto failed = [&] { return fmt::format("{}: {}: what vxctl adds will not survive a restart", path, std::strerror(errno)); };
  const int fd = open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  if (fd < 0) return failed();
  const bool is_written = write(fd, text.data(), text.size()) == static_cast<ssize_t>(text.size());
  std::string why = is_written ? "" : failed();
  close(fd);
  if (is_written && rename(temporary.c_str(), path.c_str()) != 0) why = failed();
  return why;
}

}  // namespace vx::control
