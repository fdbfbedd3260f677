/* SPDX-License-Identifier: Apache-2.0 */
/* An 802.1Q device for kernels built without one: tc clsact, egress pushes TCI (-DTCI=...), ingress takes that
 * VLAN's tag off and drops the rest. A guest or a kernel VXLAN peer with it sends and receives tagged only. */
#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>

#define ETH_P_8021Q 0x8100

SEC("push")
int vlan_push(struct __sk_buff *skb)
{
	return bpf_skb_vlan_push(skb, bpf_htons(ETH_P_8021Q), TCI) ? TC_ACT_SHOT : TC_ACT_OK;
}

SEC("pop")
int vlan_pop(struct __sk_buff *skb)
{
	if (!skb->vlan_present || (skb->vlan_tci & 0xfff) != (TCI & 0xfff))
		return PASS_OTHERS ? TC_ACT_OK : TC_ACT_SHOT;
	return bpf_skb_vlan_pop(skb) ? TC_ACT_SHOT : TC_ACT_OK;
}

char _license[] SEC("license") = "Dual BSD/GPL";
