/* SPDX-License-Identifier: Apache-2.0 */
/* tc egress: ICMP "fragmentation needed" and ICMPv6 "packet too big" never leave. What makes a path a black hole. */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>

SEC("errors")
int drop_errors(struct __sk_buff *skb)
{
	unsigned char next, type;

	if (skb->protocol == bpf_htons(ETH_P_IP)) {
		if (bpf_skb_load_bytes(skb, ETH_HLEN + 9, &next, 1) || bpf_skb_load_bytes(skb, ETH_HLEN + 20, &type, 1))
			return TC_ACT_OK;
		return next == 1 && type == 3 ? TC_ACT_SHOT : TC_ACT_OK;
	}
	if (skb->protocol == bpf_htons(ETH_P_IPV6)) {
		if (bpf_skb_load_bytes(skb, ETH_HLEN + 6, &next, 1) || bpf_skb_load_bytes(skb, ETH_HLEN + 40, &type, 1))
			return TC_ACT_OK;
		return next == 58 && type == 2 ? TC_ACT_SHOT : TC_ACT_OK;
	}
	return TC_ACT_OK;
}

char _license[] SEC("license") = "Dual BSD/GPL";
