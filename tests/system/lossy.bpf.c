/* SPDX-License-Identifier: Apache-2.0 */
/* For tc: a link that loses DROP_PERCENT of large packets, every IP packet above MAX_IP_BYTES, and large IPv4 packets without DF (a
   router would have fragmented them: a probe that passes by that says nothing). No word is said of any of it. */
#include <linux/bpf.h>
#include <linux/pkt_cls.h>

static long (*bpf_skb_load_bytes)(const void*, unsigned, void*, unsigned) = (void*)BPF_FUNC_skb_load_bytes;
static unsigned (*bpf_get_prandom_u32)(void) = (void*)BPF_FUNC_get_prandom_u32;

__attribute__((section("lossy"), used)) int lose(struct __sk_buff* skb) {
  const unsigned bytes = skb->len - 14;
  if (MAX_IP_BYTES && bytes > MAX_IP_BYTES) return TC_ACT_SHOT;
  unsigned char ip[7] = {0};
  if (bytes > 500 && bpf_skb_load_bytes(skb, 14, ip, sizeof ip) == 0 && ip[0] >> 4 == 4 && !(ip[6] & 0x40)) return TC_ACT_SHOT;
  if (DROP_PERCENT && bytes > 500 && bpf_get_prandom_u32() % 100 < DROP_PERCENT) return TC_ACT_SHOT;
  return TC_ACT_OK;
}

char _license[] __attribute__((section("license"), used)) = "Apache-2.0";
