// SPDX-License-Identifier: Apache-2.0
/* On tc ingress of a tap through which the dataplane hands frames to the host's own stack (port_tap.cc): what is
 * sent into the tap enters another netdev's ingress, as if that had received it. A bridge that stands by thus gets
 * what is addressed to it, although its ports' frames are taken. */
#include <linux/bpf.h>
#include <linux/pkt_cls.h>

#include <bpf/bpf_helpers.h>

#include "ebpf/shared.h"

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} vxp_deliver SEC(".maps");

SEC("tc")
int vxplane_deliver(struct __sk_buff *skb)
{
	__u32 zero = 0;
	__u32 *ifindex = bpf_map_lookup_elem(&vxp_deliver, &zero);

	(void)skb;
	if (!ifindex || !*ifindex)
		return TC_ACT_UNSPEC;
	return (int)bpf_redirect(*ifindex, BPF_F_INGRESS);
}

char _license[] SEC("license") = "Apache-2.0";
