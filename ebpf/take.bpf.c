// SPDX-License-Identifier: Apache-2.0
/* Takes the frames of a netdev for the dataplane's packet sockets (port_netdev.cc): each goes there or into the
 * kernel's own path, where a kernel bridge stands by never both, and never neither.
 *
 * A packet socket gets its copy before tc ingress sees the frame, on the same CPU in the same softirq
 * (__netif_receive_skb_core: ptype_all, sch_handle_ingress). So the socket's own filter decides and leaves the
 * verdict in a per-CPU flag, and the tc program follows. With PACKET_FANOUT the filter of one socket runs. No socket, no
 * verdict: a dead dataplane's frames pass at once, a hung one's when the heartbeat of their queue is stale. Where no
 * kernel bridge stands by (VXP_FLAG_STANDBY) a stale queue's frames pass and wait for the worker as well: nobody else
 * forwards them. */
#include <stdbool.h>

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/pkt_cls.h>

#include <bpf/bpf_endian.h>
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

/* 1: the frame on this CPU is the packet socket's. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} vxp_verdict SEC(".maps");

/* Of the socket this copy of the program is attached to; set before loading. */
const volatile __u32 vxp_queue = 0;

static __always_inline bool load(struct __sk_buff *skb, __u32 offset, void *to, __u32 bytes)
{
	return bpf_skb_load_bytes_relative(skb, offset, to, bytes, BPF_HDR_START_MAC) == 0;
}

/* TCP right behind an IP header: the super-frame that every vnet header has a word for. */
static __always_inline bool is_plain_tcp(struct __sk_buff *skb)
{
	__u32 ip = ETH_HLEN;
	__be16 type;
	__u8 protocol;

	if (!load(skb, 2 * ETH_ALEN, &type, sizeof type))
		return false;
	if (type == bpf_htons(ETH_P_8021Q) || type == bpf_htons(ETH_P_8021AD)) { /* else the kernel took it out */
		if (!load(skb, ip + 2, &type, sizeof type))
			return false;
		ip += 4;
	}
	if (type == bpf_htons(ETH_P_IP))
		return load(skb, ip + 9, &protocol, sizeof protocol) && protocol == IPPROTO_TCP;
	if (type == bpf_htons(ETH_P_IPV6))
		return load(skb, ip + 6, &protocol, sizeof protocol) && protocol == IPPROTO_TCP;
	return false;
}

static __always_inline __u32 decide(struct __sk_buff *skb, const struct vxp_take_config *config)
{
	__u32 queue = vxp_queue;
	struct vxp_beat *beat = bpf_map_lookup_elem(&vxp_heartbeat, &queue);
	__u64 last, now;

	if (!beat || config->flags & VXP_FLAG_BYPASS)
		return VXP_TAKE_BYPASS;
	if (config->flags & VXP_FLAG_STANDBY && config->unfollowed)
		return VXP_TAKE_UNFOLLOWED;
	last = *(volatile __u64 *)&beat->monotonic_ns;
	now = bpf_ktime_get_coarse_ns();
	if (now > last && now - last > config->stale_after_ns)
		return VXP_TAKE_STALE;
	if (config->flags & VXP_FLAG_STANDBY && skb->gso_size != 0 && !is_plain_tcp(skb))
		return VXP_TAKE_OTHER_GSO; /* SCTP, UDP, tunnels: recvmsg would lose it, the kernel's bridge segments it */
	return VXP_TAKE_TAKEN;
}

SEC("socket")
int vxplane_filter(struct __sk_buff *skb)
{
	__u32 zero = 0, way;
	__u32 *verdict = bpf_map_lookup_elem(&vxp_verdict, &zero);
	struct vxp_take_config *config = bpf_map_lookup_elem(&vxp_take, &zero);
	__u64 *count;

	if (!verdict || !config)
		return 0; /* cannot be: index 0 of arrays of one */
	/* The last frame on this CPU was taken and the tc program did not stop it: somebody detached that (`tc qdisc del`),
	 * and the frame went both ways. Where a bridge stands by the next ones go its way alone, until userspace has attached
	 * the program anew; elsewhere nobody else would forward them. */
	if (*verdict && !config->unfollowed)
		config->unfollowed = 1;
	way = decide(skb, config);
	count = bpf_map_lookup_elem(&vxp_exits, &way);
	*verdict = way == VXP_TAKE_TAKEN;
	if (count)
		*count += 1;
	/* The whole frame, or nothing. A frame that nobody else would forward waits for a worker that is late. */
	return way == VXP_TAKE_TAKEN || (way == VXP_TAKE_STALE && !(config->flags & VXP_FLAG_STANDBY)) ? -1 : 0;
}

SEC("tc")
int vxplane_take(struct __sk_buff *skb)
{
	__u32 zero = 0;
	__u32 *verdict = bpf_map_lookup_elem(&vxp_verdict, &zero);

	(void)skb;
	if (!verdict || !*verdict)
		return TC_ACT_UNSPEC;
	*verdict = 0;
	return TC_ACT_SHOT;
}

char _license[] SEC("license") = "Apache-2.0";
