// SPDX-License-Identifier: Apache-2.0
#include "bench/traffic_sink.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <linux/if_link.h>
#include <net/if.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <stdexcept>


namespace vx::traffic {
namespace {

std::runtime_error failure(const std::string& what, int error) {
  return std::runtime_error(what + ": " + std::strerror(std::abs(error)));
}

struct Constants {  // as traffic_sink.bpf.c declares them
  std::uint32_t outer, vni;
  std::uint16_t port, padding;
  std::uint32_t timed;
};

}  // namespace

SinkProgram::SinkProgram(const SinkSettings& settings)
    : flow_count_(settings.flows),
      object_(VXT_SINK_OBJECT, Constants{settings.is_outer ? 1u : 0u, settings.vni, settings.port, 0, settings.timed_mask},
              {{"vxt_flows", settings.flows}}),
      fd_(object_.program(VXT_SINK_PROGRAM)), flows_fd_(object_.map("vxt_flows")), cpu_fd_(object_.map("vxt_cpu")),
      run_fd_(object_.map("vxt_run")) {}

void SinkProgram::begin(std::uint8_t run) {
  const std::uint32_t zero = 0;
  const auto set_run = [&](std::uint32_t value) {
    if (::bpf_map_update_elem(run_fd_, &zero, &value, BPF_ANY) != 0) throw failure("vxt_run", errno);
  };
  set_run(0);  // nobody writes while zeros are
  const std::vector<vxt_cpu> zeros(static_cast<std::size_t>(std::max(1, ::libbpf_num_possible_cpus())));
  if (::bpf_map_update_elem(cpu_fd_, &zero, zeros.data(), BPF_ANY) != 0) throw failure("vxt_cpu", errno);
  run_ = run;
  set_run(run);
}

SinkTotals SinkProgram::totals() const {
  const std::uint32_t zero = 0;
  std::vector<vxt_cpu> cpus(static_cast<std::size_t>(std::max(1, ::libbpf_num_possible_cpus())));
  if (::bpf_map_lookup_elem(cpu_fd_, &zero, cpus.data()) != 0) throw failure("vxt_cpu", errno);
  SinkTotals totals;
  for (const vxt_cpu& cpu : cpus) {
    totals.frames += cpu.frames;
    totals.stale += cpu.stale;
    if (cpu.first_ns != 0 && (totals.first_ns == 0 || cpu.first_ns < totals.first_ns)) totals.first_ns = cpu.first_ns;
    totals.last_ns = std::max<std::uint64_t>(totals.last_ns, cpu.last_ns);
    totals.max_latency_ns = std::max<std::uint64_t>(totals.max_latency_ns, cpu.max_latency_ns);
    for (std::size_t i = 0; i < VXT_BUCKETS; ++i) totals.latency[i] += cpu.latency[i];
  }
  return totals;
}

std::vector<vxt_flow> SinkProgram::flows() const {
  std::vector<vxt_flow> flows(flow_count_);
  std::vector<std::uint32_t> keys(flow_count_);
  std::uint32_t position = 0;
  for (std::uint32_t got = 0; got < flow_count_;) {
    std::uint32_t count = flow_count_ - got;
    const int error = ::bpf_map_lookup_batch(flows_fd_, got == 0 ? nullptr : &position, &position, keys.data() + got, flows.data() + got, &count, nullptr);
    got += count;
    if (error != 0 && (error != -ENOENT || got < flow_count_)) throw failure("vxt_flows", error);
  }
  for (vxt_flow& flow : flows)
    if (flow.run != run_) flow = {};
  return flows;
}

Sink::Sink(const std::string& device, const SinkSettings& settings) {
  const auto index = static_cast<int>(::if_nametoindex(device.c_str()));
  for (const std::uint32_t mode : {XDP_FLAGS_DRV_MODE, XDP_FLAGS_SKB_MODE}) {
    is_native_ = mode == XDP_FLAGS_DRV_MODE;
    program_ = std::make_unique<SinkProgram>(settings);
    LIBBPF_OPTS(bpf_link_create_opts, options, .flags = mode);
    link_ = ::bpf_link_create(program_->fd(), index, BPF_XDP, &options);
    if (link_ >= 0) return;
    const int error = link_;
    if (error == -EBUSY || error == -EEXIST)
      throw std::runtime_error(device + ": another XDP program is there: take it off (ip link set " + device + " xdp off)");
    if (!is_native_) throw failure(device + ": cannot attach the sink's XDP program", error);
  }
}

Sink::~Sink() {
  if (link_ >= 0) ::close(link_);
}

std::uint64_t bucket_value(std::uint32_t bucket) noexcept {
  if (bucket < 32) return bucket;
  const std::uint32_t shift = bucket / 32 - 1;
  return (std::uint64_t{32 + bucket % 32} << shift) + (std::uint64_t{1} << shift) / 2;
}

std::uint64_t percentile(const SinkTotals& totals, double share) noexcept {
  std::uint64_t all = 0, seen = 0;
  for (const std::uint64_t n : totals.latency) all += n;
  const auto wanted = std::max<std::uint64_t>(1, static_cast<std::uint64_t>(std::ceil(static_cast<double>(all) * share)));
  for (std::uint32_t i = 0; i < VXT_BUCKETS && all != 0; ++i)
    if ((seen += totals.latency[i]) >= wanted) return std::min(bucket_value(i), totals.max_latency_ns);
  return 0;
}

}  // namespace vx::traffic
