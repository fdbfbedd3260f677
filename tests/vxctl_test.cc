// SPDX-License-Identifier: Apache-2.0
// vxctl's command line: words to requests without a server, exit codes against a control that is a thread here.
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <sstream>
#include <thread>
#include <vector>

#include "control/vxctl_arguments.h"
#include "control/vxctl_client.h"

namespace vx::control {
namespace {

std::vector<std::string> split(const std::string& line) {
  std::istringstream stream(line);
  std::vector<std::string> words;
  for (std::string word; stream >> word;) words.push_back(word);
  return words;
}

std::string request_of(const std::string& line) {
  return parse_command_line(split(line)).request.dump();
}

struct LineCase {
  const char* line;
  const char* request;
};
class VxctlLine : public testing::TestWithParam<LineCase> {};

TEST_P(VxctlLine, BecomesTheRequest) {
  EXPECT_EQ(request_of(GetParam().line), GetParam().request) << GetParam().line;
}

constexpr const char* kShow = R"({"object":"fdb","command":"show"})";
INSTANTIATE_TEST_SUITE_P(
    Design, VxctlLine,
    testing::Values(
        LineCase{"fdb", kShow}, LineCase{"fdb show", kShow}, LineCase{"f s", kShow},
        LineCase{"fdb list", kShow}, LineCase{"fdb lst", kShow}, LineCase{"fdb l", kShow},
        LineCase{"-j fdb", kShow}, LineCase{"fdb show -s", kShow},
        LineCase{"-sj --run-dir /x fdb", kShow},
        LineCase{"fdb 52:54:00:AA:BB:01",
                 R"({"object":"fdb","command":"show","mac":"52:54:00:aa:bb:01"})"},
        LineCase{"fdb show 52-54-00-aa-bb-1 vlan 5",
                 R"({"object":"fdb","command":"show","mac":"52:54:00:aa:bb:01","vlan":5})"},
        LineCase{"fdb dev tap0 dynamic",
                 R"({"object":"fdb","command":"show","dev":"tap0","kind":"dynamic"})"},
        LineCase{"fdb dst FD00::0:2 static",
                 R"({"object":"fdb","command":"show","dst":"fd00::2","kind":"static"})"},
        LineCase{"fdb get 52:54:0:0:0:1 vlan 2",
                 R"({"object":"fdb","command":"get","mac":"52:54:00:00:00:01","vlan":2})"},
        LineCase{
            "fdb add 52:54:00:00:00:01 vlan 2 dev tap0",
            R"({"object":"fdb","command":"add","mac":"52:54:00:00:00:01","vlan":2,"dev":"tap0"})"},
        LineCase{
            "fdb add 52:54:00:00:00:01 dst 172.18.1.2 sticky",
            R"({"object":"fdb","command":"add","mac":"52:54:00:00:00:01","dst":"172.18.1.2","kind":"sticky"})"},
        LineCase{"fdb add 52:54:00:00:00:01 blackhole",
                 R"({"object":"fdb","command":"add","mac":"52:54:00:00:00:01","blackhole":true})"},
        LineCase{
            "fdb add 52:54:00:00:00:01 dev vx dst 10.0.0.1 static",
            R"({"object":"fdb","command":"add","mac":"52:54:00:00:00:01","dev":"vx","dst":"10.0.0.1","kind":"static"})"},
        LineCase{"fdb del 52:54:00:00:00:01",
                 R"({"object":"fdb","command":"del","mac":"52:54:00:00:00:01"})"},
        LineCase{"fdb delete 52:54:00:00:00:01",
                 R"({"object":"fdb","command":"del","mac":"52:54:00:00:00:01"})"},
        LineCase{"fdb flush", R"({"object":"fdb","command":"flush","kind":"dynamic"})"},
        LineCase{"f f all vlan 7 dev tap0",
                 R"({"object":"fdb","command":"flush","kind":"all","vlan":7,"dev":"tap0"})"},
        LineCase{"fdb flush static dst 10.0.0.1",
                 R"({"object":"fdb","command":"flush","kind":"static","dst":"10.0.0.1"})"},
        LineCase{"fdb count", R"({"object":"fdb","command":"count"})"},
        LineCase{"fdb monitor", R"({"object":"fdb","command":"monitor"})"}));
INSTANTIATE_TEST_SUITE_P(
    OtherObjects, VxctlLine,
    testing::Values(
        LineCase{"vtep", R"({"object":"vtep","command":"show"})"},
        LineCase{"vt add 10.0.0.9", R"({"object":"vtep","command":"add","dst":"10.0.0.9"})"},
        LineCase{"vtep del fd00::9", R"({"object":"vtep","command":"del","dst":"fd00::9"})"},
        LineCase{"port", R"({"object":"port","command":"show"})"},
        LineCase{
            "port add g1 driver=tap bridge-access=100",
            R"({"object":"port","command":"add","name":"g1","options":"driver=tap bridge-access=100"})"},
        LineCase{
            "port add dev driver=dpdk:net_null0,size=64",
            R"({"object":"port","command":"add","name":"dev","options":"driver=dpdk:net_null0,size=64"})"},
        LineCase{"port del g1", R"({"object":"port","command":"del","name":"g1"})"},
        LineCase{"vlan", R"({"object":"vlan","command":"show"})"},
        LineCase{"stats --watch=5", R"({"object":"stats","command":"show"})"},
        LineCase{"dr", R"({"object":"drops","command":"show"})"},
        LineCase{"status", R"({"object":"status","command":"show"})"},
        LineCase{"mtu", R"({"object":"mtu","command":"show"})"},
        LineCase{"mtu probe 10.0.0.1", R"({"object":"mtu","command":"probe","dst":"10.0.0.1"})"},
        LineCase{"bypass", R"({"object":"bypass","command":"show"})"},
        LineCase{"bypass on", R"({"object":"bypass","command":"on"})"},
        LineCase{"b off", R"({"object":"bypass","command":"off"})"},
        LineCase{"mtu p FD00::0:1", R"({"object":"mtu","command":"probe","dst":"fd00::1"})"},
        LineCase{"mtu probe", R"({"object":"mtu","command":"probe"})"},
        LineCase{"reload", R"({"object":"reload","command":"run"})"}));

class VxctlBadLine : public testing::TestWithParam<const char*> {};
TEST_P(VxctlBadLine, IsAUsageErrorOfOneLine) {
  std::ostringstream out, err;
  EXPECT_EQ(run_vxctl(split(GetParam()), out, err), api::Exit::kUsage) << GetParam();
  EXPECT_EQ(out.str(), "");
  const std::string text = err.str();
  EXPECT_TRUE(text.starts_with("vxctl: ")) << text;
  EXPECT_EQ(text.find('\n'), text.size() - 1) << text;
}
INSTANTIATE_TEST_SUITE_P(
    All, VxctlBadLine,
    testing::Values("", "nothing", "s", "v", "--frob", "-x fdb", "fdb frobnicate", "fdb get",
                    "fdb add", "fdb del", "fdb add 52:54:00:00:00:01",
                    "fdb add 52:54:00:00:00:01 dst 1.2.3.4 blackhole", "fdb vlan", "fdb vlan 0",
                    "fdb vlan 4095", "fdb vlan x", "fdb dst 1.2.3", "fdb dynamic static",
                    "fdb vlan 1 vlan 2", "fdb 52:54:00:00:00",
                    "fdb 52:54:00:00:00:01 52:54:00:00:00:02", "fdb count vlan 1", "vtep add",
                    "vtep add x", "vtep frob", "port add", "port add x driver", "port del",
                    "port del a b", "mtu probe x", "mtu probe 10.0.0.1 10.0.0.2", "reload now", "bypass o", "bypass on off", "bypass maybe", "status x", "fdb show --watch",
                    "stats --watch=0", "fdb --run-dir"));

TEST(VxctlHelp, IsThereAtEveryLevel) {
  for (const char* line :
       {"help", "-h", "--help", "fdb help", "help fdb", "fdb -h", "fdb add help", "fdb help add",
        "vtep help", "port help", "vlan help", "stats help", "drops help", "status help",
        "mtu help", "reload help", "-V", "--version"}) {
    std::ostringstream out, err;
    EXPECT_EQ(run_vxctl(split(line), out, err), api::Exit::kDone) << line;
    EXPECT_NE(out.str(), "") << line;
    EXPECT_EQ(err.str(), "") << line;
  }
  EXPECT_EQ(parse_command_line(split("--version")).print, "vxctl " VXPLANE_VERSION "\n");
}

// A vxplane-control that answers each request line with the next of `replies`, then closes.
class FakeControl {
 public:
  explicit FakeControl(std::vector<std::string> replies) : replies_(std::move(replies)) {
    char path[] = "/tmp/vxctl_test.XXXXXX";
    directory_ = mkdtemp(path);
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    (directory_ + "/control.sock").copy(address.sun_path, sizeof address.sun_path - 1);
    listener_ = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (bind(listener_, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0 ||
        listen(listener_, 1) != 0)
      abort();
    thread_ = std::thread([this] { serve(); });
  }
  ~FakeControl() {
    stop();
    close(listener_);
    std::filesystem::remove_all(directory_);
  }
  void stop() {
    if (thread_.joinable()) thread_.join();
  }
  [[nodiscard]] const std::string& directory() const { return directory_; }
  std::vector<std::string> requests;  // after stop()

 private:
  void serve() {
    pollfd wait{listener_, POLLIN, 0};
    if (poll(&wait, 1, 10000) != 1) return;
    const int fd = accept(listener_, nullptr, nullptr);
    api::LineBuffer lines;
    for (const auto& reply : replies_) {
      std::optional<std::string> line;
      while (!(line = lines.next())) {
        char bytes[4096];
        const ssize_t n = recv(fd, bytes, sizeof bytes, 0);
        if (n <= 0) break;
        lines.append({bytes, static_cast<std::size_t>(n)});
      }
      if (line) requests.push_back(*line);
      static_cast<void>(send(fd, reply.data(), reply.size(), MSG_NOSIGNAL));
    }
    close(fd);
  }

  std::vector<std::string> replies_;
  std::string directory_;
  int listener_ = -1;
  std::thread thread_;
};

struct Outcome {
  api::Exit exit{};
  std::string out, err, request;
};

Outcome run_against(const std::string& reply, const std::string& line) {
  FakeControl control({reply});
  std::ostringstream out, err;
  Outcome outcome;
  outcome.exit = run_vxctl(split("--run-dir " + control.directory() + " " + line), out, err);
  control.stop();
  outcome.out = out.str();
  outcome.err = err.str();
  if (!control.requests.empty()) outcome.request = control.requests.front();
  return outcome;
}

TEST(Vxctl, PrintsTheResultAsText) {
  const auto o = run_against(
      api::encode(api::ok(Json::parse(
          R"([{"mac":"52:54:00:00:00:01","ifname":"t","vlan":1,"flags":[],"state":""}])"))),
      "fdb");
  EXPECT_EQ(o.exit, api::Exit::kDone);
  EXPECT_EQ(o.out, "52:54:00:00:00:01 dev t vlan 1\n");
  EXPECT_EQ(o.err, "");
  EXPECT_EQ(o.request, R"({"object":"fdb","command":"show"})");
}

TEST(Vxctl, JsonIsExactlyTheResult) {
  EXPECT_EQ(run_against("{\"ok\":true,\"result\":[]}\n", "-j fdb").out, "[]\n");
  EXPECT_EQ(run_against("{\"ok\":true,\"result\":{\"z\":1,\"a\":2}}\n", "--json drops").out,
            "{\"z\":1,\"a\":2}\n");
}

TEST(Vxctl, NoMatchIsNothingAndExitZero) {
  const auto o = run_against("{\"ok\":true,\"result\":[]}\n", "fdb vlan 9");
  EXPECT_EQ(o.exit, api::Exit::kDone);
  EXPECT_EQ(o.out + o.err, "");
}

TEST(Vxctl, ChangesThatSucceedAreSilent) {
  for (const char* line : {"fdb add 52:54:00:00:00:01 dev t", "fdb del 52:54:00:00:00:01",
                           "vtep add 10.0.0.1", "port del t", "reload"}) {
    const auto o = run_against(api::encode(api::ok()), line);
    EXPECT_EQ(o.exit, api::Exit::kDone) << line;
    EXPECT_EQ(o.out + o.err, "") << line;
  }
}

TEST(Vxctl, ARefusalGoesToStderrWithExitOne) {
  const auto o = run_against(api::encode(api::error("no entry for 52:54:00:00:00:01 in VLAN 1")),
                             "fdb get 52:54:00:00:00:01");
  EXPECT_EQ(o.exit, api::Exit::kRefused);
  EXPECT_EQ(o.out, "");
  EXPECT_EQ(o.err, "vxctl: no entry for 52:54:00:00:00:01 in VLAN 1\n");
}

TEST(Vxctl, ControlMayCallItUsage) {
  EXPECT_EQ(
      run_against(api::encode(api::error("no such option", api::Exit::kUsage)), "port add x y=z")
          .exit,
      api::Exit::kUsage);
}

TEST(Vxctl, NotesGoToStderr) {
  const auto o = run_against(
      "{\"ok\":true,\"result\":{\"changes\":[\"port t added\"]},\"notes\":[\"f:1: mtu: warning: "
      "x\"]}\n",
      "reload");
  EXPECT_EQ(o.exit, api::Exit::kDone);
  EXPECT_EQ(o.out, "port t added\n");
  EXPECT_EQ(o.err, "vxctl: f:1: mtu: warning: x\n");
}

TEST(Vxctl, BadNewsIsPrintedAndExitOne) {
  const std::string reply = R"({"ok":true,"result":[{"dst":"10.0.0.1","text":"10.0.0.1: 1400 needed, 1372 passes"}],"exit":1,"advice":"do this"})" "\n";
  const auto text = run_against(reply, "mtu probe");
  EXPECT_EQ(text.exit, api::Exit::kRefused);
  EXPECT_EQ(text.out, "10.0.0.1: 1400 needed, 1372 passes\n");
  EXPECT_EQ(text.err, "vxctl: do this\n");
  const auto json = run_against(reply, "-j mtu probe");
  EXPECT_EQ(json.exit, api::Exit::kRefused);
  EXPECT_TRUE(json.out.starts_with("[{")) << json.out;
}

void expect_unreachable(const Outcome& o) {
  EXPECT_EQ(o.exit, api::Exit::kUnreachable);
  EXPECT_EQ(o.out, "");
  EXPECT_EQ(o.err.find('\n'), o.err.size() - 1) << o.err;
}

TEST(Vxctl, ControlThatIsAwayIsExitThreeWithWhatToDo) {
  std::ostringstream out, err;
  EXPECT_EQ(run_vxctl(split("--run-dir /nonexistent fdb"), out, err), api::Exit::kUnreachable);
  EXPECT_EQ(out.str(), "");
  EXPECT_EQ(err.str(),
            "vxctl: cannot reach vxplane-control at /nonexistent/control.sock: No such file or "
            "directory; "
            "start it (systemctl start vxplane-control), or name its --run-dir\n");
}

TEST(Vxctl, ControlThatClosesOrSpeaksNonsenseIsExitThree) {
  expect_unreachable(run_against("", "fdb"));
  expect_unreachable(run_against("{\"ok\":true,", "fdb"));  // died while answering
  expect_unreachable(run_against("hello\n", "fdb"));
}

TEST(Vxctl, MonitorPrintsEventsUntilControlCloses) {
  const std::string stream =
      "{\"ok\":true,\"result\":{}}\n"
      R"({"event":{"what":"added","mac":"52:54:00:00:00:01","ifname":"t","vlan":1,"state":""}})"
      "\n"
      R"({"event":{"what":"deleted","mac":"52:54:00:00:00:01","ifname":"t","vlan":1,"state":""}})"
      "\n";
  const auto text = run_against(stream, "fdb monitor");
  EXPECT_EQ(text.out, "52:54:00:00:00:01 dev t vlan 1\nDeleted 52:54:00:00:00:01 dev t vlan 1\n");
  EXPECT_EQ(text.exit, api::Exit::kUnreachable);
  const auto json = run_against(stream, "-j fdb monitor");
  EXPECT_TRUE(json.out.starts_with(R"({"what":"added","mac":)")) << json.out;
}

TEST(Vxctl, RunDirectoryComesFromTheEnvironmentToo) {
  FakeControl control({"{\"ok\":true,\"result\":[]}\n"});
  setenv("VXPLANE_RUN_DIR", control.directory().c_str(), 1);
  std::ostringstream out, err;
  EXPECT_EQ(run_vxctl(split("fdb"), out, err), api::Exit::kDone) << err.str();
  unsetenv("VXPLANE_RUN_DIR");
}

TEST(Vxctl, WatchPrintsRates) {
  const std::string reply = "{\"ok\":true,\"result\":{\"ports\":{\"t\":{\"rx_packets\":5}}}}\n";
  FakeControl control({reply, reply});
  std::ostringstream out, err;
  EXPECT_EQ(run_vxctl(split("--run-dir " + control.directory() + " stats --watch"), out, err),
            api::Exit::kUnreachable);
  EXPECT_EQ(out.str(),
            "PORT  RX-PPS  RX-MBIT/S  TX-PPS  TX-MBIT/S  DROPS/S\n"
            "t          0        0.0       0        0.0        0\n"
            "drops in all: 0/s\n\n");
}

TEST(Vxctl, ALongAnswerIsReadWhole) {
  Json entries = Json::array();
  for (int i = 0; i < 20000; ++i)
    entries.push_back({{"mac", "52:54:00:00:00:01"}, {"ifname", "t"}, {"vlan", 1}, {"state", ""}});
  const auto o = run_against(api::encode(api::ok(entries)), "fdb");
  EXPECT_EQ(std::count(o.out.begin(), o.out.end(), '\n'), 20000);
}

}  // namespace
}  // namespace vx::control
