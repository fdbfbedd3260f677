// SPDX-License-Identifier: Apache-2.0
/* On tc ingress of a netdev whose frames the dataplane takes by AF_PACKET (port_netdev.cc): packet sockets get
 * their copy before this hook, so dropping here keeps a frame from also entering the kernel's own path.
 * When the dataplane dies or hangs its heartbeat goes stale and the kernel has its frames back. */
#include <linux/bpf.h>
#include <linux/pkt_cls.h>

#include <bpf/bpf_helpers.h>

#include "ebpf/shared.h"

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct vxp_take_config);
} vxp_take SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, VXP_MAX_QUEUES);
	__type(key, __u32);
	__type(value, struct vxp_beat);
} vxp_heartbeat SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, VXP_TAKE_COUNT);
	__type(key, __u32);
	__type(value, __u64);
} vxp_exits SEC(".maps");

static __always_inline int leave(__u32 way)
{
	__u64 *count = bpf_map_lookup_elem(&vxp_exits, &way);

	if (count)
		*count += 1;
	return way == VXP_TAKE_TAKEN ? TC_ACT_SHOT : TC_ACT_UNSPEC;
}

SEC("tc")
int vxplane_take(struct __sk_buff *skb)
{
	__u32 zero = 0;
	struct vxp_take_config *config = bpf_map_lookup_elem(&vxp_take, &zero);

	(void)skb;
	if (!config)
		return TC_ACT_UNSPEC;
	for (__u32 queue = 0; queue < VXP_MAX_QUEUES && queue < config->queues; queue++) {
		__u32 index = queue;
		struct vxp_beat *beat = bpf_map_lookup_elem(&vxp_heartbeat, &index);
		__u64 last = beat ? *(volatile __u64 *)&beat->monotonic_ns : 0;
		__u64 now = bpf_ktime_get_ns();

		if (now <= last || now - last <= config->stale_after_ns)
			return leave(VXP_TAKE_TAKEN);
	}
	return leave(VXP_TAKE_STALE);
}

char _license[] SEC("license") = "Apache-2.0";
