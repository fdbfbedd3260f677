// SPDX-License-Identifier: Apache-2.0
/* Where the frames of vxplane-traffic end: finds the stamp at its place, accounts for it by flow, drops the frame.
 * Every other frame passes. The same program for every contender, so that its cost is the same too. */
#include <stdbool.h>

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "bench/traffic_shared.h"

/* Set before loading. */
const volatile __u32 vxt_outer = 0;   /* 1: the stamp is inside a VXLAN packet */
const volatile __u32 vxt_vni = 0;
const volatile __u16 vxt_port = 4789;
const volatile __u32 vxt_timed = 0;   /* the clock is read for frames whose number here has none of these bits */

/* struct vxt_flow, with the lock by its type. */
struct flow {
	struct bpf_spin_lock lock;
	__u32 run, next, received, duplicated, reordered, unknown, reserved;
	__u64 window[VXT_WINDOW_WORDS];
};
_Static_assert(sizeof(struct flow) == sizeof(struct vxt_flow) && sizeof(struct flow) == 64, "one cache line");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1); /* set before loading: the flows */
	__type(key, __u32);
	__type(value, struct flow);
} vxt_flows SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct vxt_cpu);
} vxt_cpu SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} vxt_run SEC(".maps");

struct vlan_ethernet {
	struct ethhdr ethernet;
	__be16 tci, type;
} __attribute__((packed));

/* Behind the Ethernet header and at most one tag; null when that is not there. */
static __always_inline void *skip_ethernet(void *at, void *end, __be16 *type)
{
	struct vlan_ethernet *header = at;

	if ((void *)(header + 1) > end)
		return 0;
	*type = header->ethernet.h_proto;
	if (*type != bpf_htons(ETH_P_8021Q))
		return &header->ethernet + 1;
	*type = header->type;
	return header + 1;
}

struct udp { __be16 source, destination, length, checksum; };
struct vxlan { __be32 flags, vni; };

/* Behind the VXLAN header. Outer IPv4 without options, or IPv6. */
static __always_inline void *skip_outer(void *at, void *end)
{
	struct udp *udp;
	struct vxlan *vxlan;
	__be16 type;

	at = skip_ethernet(at, end, &type);
	if (!at)
		return 0;
	if (type == bpf_htons(ETH_P_IP)) {
		__u8 *ip = at;

		if ((void *)(ip + 20) > end || ip[0] != 0x45 || ip[9] != IPPROTO_UDP)
			return 0;
		udp = (void *)(ip + 20);
	} else if (type == bpf_htons(ETH_P_IPV6)) {
		__u8 *ip = at;

		if ((void *)(ip + 40) > end || ip[6] != IPPROTO_UDP)
			return 0;
		udp = (void *)(ip + 40);
	} else {
		return 0;
	}
	vxlan = (void *)(udp + 1);
	if ((void *)(vxlan + 1) > end || udp->destination != bpf_htons(vxt_port) || vxlan->vni != bpf_htonl(vxt_vni << 8))
		return 0;
	return vxlan + 1;
}

static __always_inline void forget(struct flow *flow, __u32 run)
{
	flow->run = run;
	flow->next = 0;
	flow->received = flow->duplicated = flow->reordered = flow->unknown = 0;
#pragma unroll
	for (__u32 i = 0; i < VXT_WINDOW_WORDS; ++i)
		flow->window[i] = 0;
}

static __always_inline void account(struct flow *flow, __u32 run, __u32 sequence)
{
	__u32 word = sequence / 64, next;
	__u64 bit = 1ull << (sequence & 63);

	if (flow->run != run)
		forget(flow, run);
	next = flow->next;
	if (sequence >= next) {
		__u32 fresh = next / 64 + (next % 64 != 0); /* the first word that no number has used */

#pragma unroll
		for (__u32 i = 0; i < VXT_WINDOW_WORDS; ++i)
			if (fresh + i <= word)
				flow->window[(fresh + i) % VXT_WINDOW_WORDS] = 0;
		flow->window[word % VXT_WINDOW_WORDS] |= bit;
		flow->next = sequence + 1;
		flow->received += 1;
	} else if ((next - 1) / 64 - word >= VXT_WINDOW_WORDS) {
		flow->unknown += 1;
	} else if (flow->window[word % VXT_WINDOW_WORDS] & bit) {
		flow->duplicated += 1;
	} else {
		flow->window[word % VXT_WINDOW_WORDS] |= bit;
		flow->reordered += 1;
		flow->received += 1;
	}
}

static __always_inline void measure(struct vxt_cpu *cpu, __u64 sent_ns)
{
	__u64 now = bpf_ktime_get_ns();
	__u64 latency = now > sent_ns ? now - sent_ns : 0;

	if (!cpu->first_ns)
		cpu->first_ns = now;
	cpu->last_ns = now;
	if (latency > cpu->max_latency_ns)
		cpu->max_latency_ns = latency;
	cpu->latency[vxt_bucket(latency) % VXT_BUCKETS] += 1;
}

SEC("xdp")
int vxt_sink(struct xdp_md *ctx)
{
	void *end = (void *)(long)ctx->data_end, *at = (void *)(long)ctx->data;
	__u32 zero = 0, index, counted, sequence;
	struct vxt_stamp *stamp;
	struct vxt_cpu *cpu;
	struct flow *flow;
	__u32 *run;
	__be16 type;

	if (vxt_outer) {
		at = skip_outer(at, end);
		if (!at)
			return XDP_PASS;
	}
	at = skip_ethernet(at, end, &type);
	if (!at || type != bpf_htons(ETH_P_IP))
		return XDP_PASS;
	stamp = at + 20 + 8;
	if ((void *)(stamp + 1) > end || stamp->magic != VXT_MAGIC)
		return XDP_PASS;
	index = stamp->flow_run & 0xffffff;
	flow = bpf_map_lookup_elem(&vxt_flows, &index);
	run = bpf_map_lookup_elem(&vxt_run, &zero);
	cpu = bpf_map_lookup_elem(&vxt_cpu, &zero);
	if (!run || !cpu)
		return XDP_DROP; /* cannot be */
	counted = *run;
	if (!flow || stamp->flow_run >> 24 != counted) {
		cpu->stale += 1;
		return XDP_DROP;
	}
	sequence = stamp->sequence;
	if (!(cpu->frames & vxt_timed))
		measure(cpu, stamp->sent_ns);
	cpu->frames += 1;
	bpf_spin_lock(&flow->lock);
	account(flow, counted, sequence);
	bpf_spin_unlock(&flow->lock);
	return XDP_DROP;
}

char _license[] SEC("license") = "Apache-2.0";
