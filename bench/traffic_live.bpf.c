// SPDX-License-Identifier: Apache-2.0
/* The sender of vxplane-traffic that lives in the kernel: BPF_PROG_RUN with BPF_F_TEST_XDP_LIVE_FRAMES runs this on page after page. A
 * page becomes the next flow's frame and is redirected into the device when a frame is due, else it goes back. One task runs it. */
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

#include "bench/traffic_shared.h"

/* Set before loading. */
const volatile __u32 vxt_header_bytes = 42;
const volatile __u32 vxt_ifindex = 0;
const volatile __u32 vxt_flow_count = 1;
const volatile __u32 vxt_learn_at = 0; /* where the source MAC is, each another; 0: as the flow has it */

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1); /* set before loading: the flows */
	__type(key, __u32);
	__type(value, struct vxt_out);
} vxt_out SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1); /* set before loading: the flows */
	__type(key, __u32);
	__type(value, __u32);
} vxt_order SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct vxt_pace);
} vxt_pace SEC(".maps");

/* 02:6c and the number: learned_mac() of traffic_frame.h. */
static __always_inline void put_new_source(__u8 *at, __u32 number)
{
	at[0] = 0x02;
	at[1] = 0x6c;
	at[2] = number >> 24;
	at[3] = number >> 16;
	at[4] = number >> 8;
	at[5] = number;
}

static __always_inline int is_due(struct vxt_pace *pace, __u64 now)
{
	__u64 elapsed, debt, skip;

	if (!pace->start_ns)
		pace->start_ns = now;
	if (now - pace->start_ns >= pace->duration_ns)
		return 0;
	if (!pace->interval)
		return 1;
	elapsed = (now - pace->start_ns) << 16;
	if (elapsed < pace->due)
		return 0;
	debt = elapsed - pace->due;
	if (debt > pace->most_debt) {
		skip = (debt - pace->most_debt) / pace->interval;
		pace->due += skip * pace->interval;
		pace->skipped += skip;
	}
	pace->due += pace->interval;
	return 1;
}

SEC("xdp")
int vxt_send(struct xdp_md *ctx)
{
	void *end = (void *)(long)ctx->data_end, *data = (void *)(long)ctx->data;
	__u32 zero = 0, *flow;
	struct vxt_stamp *stamp;
	struct vxt_pace *pace;
	struct vxt_out *out;
	__u64 now;

	pace = bpf_map_lookup_elem(&vxt_pace, &zero);
	if (!pace)
		return XDP_DROP;
	/* At full speed the clock is a tenth of what a frame costs. */
	if (pace->interval || !pace->start_ns || !(pace->position & 7))
		pace->now_ns = bpf_ktime_get_ns();
	now = pace->now_ns;
	if (!is_due(pace, now))
		return XDP_DROP;
	flow = bpf_map_lookup_elem(&vxt_order, &pace->position);
	if (!flow)
		return XDP_DROP;
	out = bpf_map_lookup_elem(&vxt_out, flow);
	if (!out)
		return XDP_DROP;
	stamp = data + vxt_header_bytes;
	if ((void *)(stamp + 1) > end)
		return XDP_DROP;
	if (vxt_header_bytes == 42)
		__builtin_memcpy(data, out->headers, 42);
	else if (vxt_header_bytes == 46)
		__builtin_memcpy(data, out->headers, 46);
	else if (vxt_header_bytes == 92)
		__builtin_memcpy(data, out->headers, 92);
	else if (vxt_header_bytes == 96)
		__builtin_memcpy(data, out->headers, 96);
	else
		return XDP_DROP;
	if (vxt_learn_at == 6)
		put_new_source(data + 6, pace->learned++);
	else if (vxt_learn_at == 56)
		put_new_source(data + 56, pace->learned++);
	stamp->magic = VXT_MAGIC;
	stamp->flow_run = *flow | pace->run << 24;
	stamp->sent_ns = now;
	stamp->sequence = out->sequence++;
	pace->position = pace->position + 1 < vxt_flow_count ? pace->position + 1 : 0;
	return bpf_redirect(vxt_ifindex, 0);
}

char _license[] SEC("license") = "Apache-2.0";
