// SPDX-License-Identifier: Apache-2.0
/* Steers VXLAN for us to the AF_XDP socket of its queue; everything else is the kernel's (design section 4).
 *
 * Whatever is in doubt passes: the host's own traffic shares this NIC. Every exit is counted by
 * leave(), the only way out. Loaded by DPDK's net_af_xdp, which takes the first program of the object
 * and the map `xsks_map`; userspace (xdp_steering.cc) finds the other maps through the attached program. */
#include <stdbool.h>

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "ebpf/shared.h"

struct {
	__uint(type, BPF_MAP_TYPE_XSKMAP);
	__uint(max_entries, VXP_MAX_QUEUES);
	__type(key, __u32);
	__type(value, __u32);
} xsks_map SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct vxp_config);
} vxp_config SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, VXP_MAX_LOCALS);
	__type(key, struct vxp_local_key);
	__type(value, __u32);
} vxp_locals SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, VXP_MAX_VNIS);
	__type(key, __u32);
	__type(value, __u32);
} vxp_vnis SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct vxp_common);
} vxp_common SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, VXP_MAX_QUEUES);
	__type(key, __u32);
	__type(value, struct vxp_beat);
} vxp_heartbeat SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, VXP_EXIT_COUNT);
	__type(key, __u32);
	__type(value, __u64);
} vxp_exits SEC(".maps");

struct vlan_tag {
	__be16 tci;
	__be16 type;
};

struct ipv4 { /* RFC 791 section 3.1 */
	__u8 version_ihl, tos;
	__be16 total_length, id, flags_fragment;
	__u8 ttl, protocol;
	__be16 checksum;
	__u8 source[4], destination[4];
};

struct ipv6 { /* RFC 8200 section 3 */
	__u8 version_class, flow[3];
	__be16 payload_length;
	__u8 next_header, hop_limit;
	__u8 source[16], destination[16];
};

struct udp_vxlan { /* RFC 768, RFC 7348 section 5 */
	__be16 source_port, destination_port, length, checksum;
	__u8 flags, reserved[3];
	__be32 vni_reserved;
};

struct arp { /* RFC 826, Ethernet and IPv4 */
	__be16 hardware, protocol;
	__u8 hardware_length, protocol_length;
	__be16 operation;
	__u8 sender_mac[6], sender_ip[4], target_mac[6], target_ip[4];
};

struct nd { /* RFC 4861 sections 4.3 and 4.4 */
	__u8 type, code;
	__be16 checksum;
	__u32 reserved;
	__u8 target[16];
};
#define ND_SOLICITATION 135
#define NEXT_FRAGMENT 44
#define NEXT_ICMPV6 58

struct cursor {
	void *at;
	void *end;
};

/* The next `size` bytes, or NULL when the frame ends before them. */
static __always_inline void *take(struct cursor *cursor, __u32 size)
{
	void *at = cursor->at;

	if (at + size > cursor->end)
		return NULL;
	cursor->at = at + size;
	return at;
}

/* Counts the way out and, for frames of ours, hands them to the queue's socket. */
static __always_inline int leave(struct xdp_md *ctx, const struct vxp_config *config, __u32 way)
{
	int action = XDP_PASS;
	__u64 *count;

	if (way == VXP_EXIT_REDIRECTED || way == VXP_EXIT_OWN_ADDRESS || way == VXP_EXIT_TAKEN) {
		__u32 queue = ctx->rx_queue_index;
		struct vxp_beat *beat = bpf_map_lookup_elem(&vxp_heartbeat, &queue);

		if (config->flags & VXP_FLAG_BYPASS) {
			way = VXP_EXIT_BYPASS;
		} else if (!beat) {
			way = VXP_EXIT_NO_SOCKET;
		} else {
			__u64 last = *(volatile __u64 *)&beat->monotonic_ns;
			__u64 now = bpf_ktime_get_coarse_ns();

			/* An address of our own is nobody else's: frames for it wait for a worker that is late. */
			if (now > last && now - last > config->stale_after_ns && !config->own_address) {
				way = VXP_EXIT_STALE;
			} else {
				action = bpf_redirect_map(&xsks_map, queue, XDP_PASS);
				if (action != XDP_REDIRECT)
					way = VXP_EXIT_NO_SOCKET;
			}
		}
	}
	count = bpf_map_lookup_elem(&vxp_exits, &way);
	if (count)
		*count += 1;
	return action;
}

static __always_inline void set_v4(struct vxp_local_key *key, const __u8 *address)
{
	__builtin_memset(key, 0, sizeof(*key));
	key->address[10] = 0xff;
	key->address[11] = 0xff;
	__builtin_memcpy(&key->address[12], address, 4);
}

static __always_inline void set_v6(struct vxp_local_key *key, const __u8 *address)
{
	__builtin_memset(key, 0, sizeof(*key));
	__builtin_memcpy(key->address, address, 16);
}

static __always_inline int is_local(const struct vxp_local_key *key)
{
	return bpf_map_lookup_elem(&vxp_locals, key) != NULL;
}

static __always_inline bool is_same(const struct vxp_local_key *a, const struct vxp_local_key *b)
{
	const __u32 *x = (const __u32 *)a, *y = (const __u32 *)b;

	return ((x[0] ^ y[0]) | (x[1] ^ y[1]) | (x[2] ^ y[2]) | (x[3] ^ y[3]) | (x[4] ^ y[4])) == 0;
}

/* `key` holds the destination address. */
static __always_inline __u32 steer_udp(struct cursor *cursor, struct vxp_local_key *key)
{
	struct udp_vxlan *vxlan;
	__be16 *ports = cursor->at;
	__u32 vni, zero = 0;
	struct vxp_common *common = bpf_map_lookup_elem(&vxp_common, &zero);

	if ((void *)(ports + 2) > cursor->end)
		return is_local(key) ? VXP_EXIT_TRUNCATED : VXP_EXIT_OTHER_ADDRESS;
	key->port = ports[1];
	if (!key->port || (!(common && is_same(key, &common->local)) && !is_local(key))) {
		key->port = 0;
		return is_local(key) ? VXP_EXIT_OTHER_PORT : VXP_EXIT_OTHER_ADDRESS;
	}
	vxlan = take(cursor, sizeof(*vxlan));
	if (!vxlan)
		return VXP_EXIT_TRUNCATED;
	if (!(vxlan->flags & 0x08)) /* RFC 7348 section 5: I flag */
		return VXP_EXIT_BAD_FLAGS;
	vni = bpf_ntohl(vxlan->vni_reserved) >> 8;
	if (!(common && common->vni == vni) && !bpf_map_lookup_elem(&vxp_vnis, &vni))
		return VXP_EXIT_UNKNOWN_VNI;
	return VXP_EXIT_REDIRECTED;
}

/* A datagram in pieces for a local address: the dataplane reassembles those for its own, the kernel the others. */
static __always_inline __u32 fragment_exit(const struct vxp_config *config)
{
	return config->own_address ? VXP_EXIT_OWN_ADDRESS : VXP_EXIT_FRAGMENT;
}

static __always_inline __u32 steer_ipv4(struct cursor *cursor, const struct vxp_config *config)
{
	struct ipv4 *ip = take(cursor, sizeof(*ip));
	struct vxp_local_key key;
	__u32 options;

	if (!ip)
		return VXP_EXIT_TRUNCATED;
	options = (__u32)(ip->version_ihl & 0x0f) * 4;
	if (ip->version_ihl >> 4 != 4 || options < sizeof(*ip))
		return VXP_EXIT_OTHER_PROTOCOL;
	options -= sizeof(*ip);
	set_v4(&key, ip->destination);
	if (ip->protocol != IPPROTO_UDP && !(config->own_address && ip->protocol == IPPROTO_ICMP))
		return VXP_EXIT_OTHER_PROTOCOL;
	if (ip->flags_fragment & bpf_htons(0x3fff)) /* MF or an offset */
		return is_local(&key) ? fragment_exit(config) : VXP_EXIT_OTHER_ADDRESS;
	if (!take(cursor, options))
		return VXP_EXIT_TRUNCATED;
	if (ip->protocol == IPPROTO_ICMP)
		return is_local(&key) ? VXP_EXIT_OWN_ADDRESS : VXP_EXIT_OTHER_ADDRESS;
	return steer_udp(cursor, &key);
}

/* Neighbour solicitations go to a multicast address: the one asked for is in the body. */
static __always_inline __u32 steer_icmpv6(struct cursor *cursor, struct vxp_local_key *key)
{
	struct nd *nd = cursor->at;

	if (is_local(key))
		return VXP_EXIT_OWN_ADDRESS;
	if ((void *)(nd + 1) > cursor->end || nd->type != ND_SOLICITATION)
		return VXP_EXIT_OTHER_ADDRESS;
	set_v6(key, nd->target);
	return is_local(key) ? VXP_EXIT_OWN_ADDRESS : VXP_EXIT_OTHER_ADDRESS;
}

/* With extension headers a datagram passes: the kernel hands it to the socket the dataplane holds. */
static __always_inline __u32 steer_ipv6(struct cursor *cursor, const struct vxp_config *config)
{
	struct ipv6 *ip = take(cursor, sizeof(*ip));
	struct vxp_local_key key;

	if (!ip)
		return VXP_EXIT_TRUNCATED;
	if (ip->version_class >> 4 != 6)
		return VXP_EXIT_OTHER_PROTOCOL;
	set_v6(&key, ip->destination);
	if (ip->next_header == NEXT_FRAGMENT) {
		__u8 *fragment = take(cursor, 8); /* RFC 8200 section 4.5 */

		if (!is_local(&key))
			return VXP_EXIT_OTHER_ADDRESS;
		if (!fragment)
			return VXP_EXIT_TRUNCATED;
		return *fragment == IPPROTO_UDP || *fragment == NEXT_ICMPV6 ? fragment_exit(config) : VXP_EXIT_FRAGMENT;
	}
	if (ip->next_header == NEXT_ICMPV6 && config->own_address)
		return steer_icmpv6(cursor, &key);
	if (ip->next_header != IPPROTO_UDP)
		return VXP_EXIT_OTHER_PROTOCOL;
	return steer_udp(cursor, &key);
}

/* Asked about, or answered to, an address the dataplane owns. Gratuitous ARP of others passes: the host needs it too. */
static __always_inline __u32 steer_arp(struct cursor *cursor, const struct vxp_config *config)
{
	struct arp *arp = take(cursor, sizeof(*arp));
	struct vxp_local_key key;

	if (!config->own_address)
		return VXP_EXIT_OTHER_PROTOCOL;
	if (!arp)
		return VXP_EXIT_TRUNCATED;
	set_v4(&key, arp->target_ip);
	return is_local(&key) ? VXP_EXIT_OWN_ADDRESS : VXP_EXIT_OTHER_ADDRESS;
}

static __always_inline __u32 steer(struct cursor *cursor, const struct vxp_config *config)
{
	struct ethhdr *ethernet = take(cursor, sizeof(*ethernet));
	__be16 type;
	__u16 vlan = 0;

	if (!ethernet)
		return VXP_EXIT_TRUNCATED;
	type = ethernet->h_proto;
	if (type == bpf_htons(ETH_P_8021AD))
		return VXP_EXIT_OTHER_VLAN;
	if (type == bpf_htons(ETH_P_8021Q)) {
		struct vlan_tag *tag = take(cursor, sizeof(*tag));

		if (!tag)
			return VXP_EXIT_TRUNCATED;
		vlan = bpf_ntohs(tag->tci) & 0x0fff;
		type = tag->type;
		if (vlan == 0) /* priority tag: the dataplane expects none, the kernel takes it */
			return VXP_EXIT_OTHER_VLAN;
	}
	if (vlan != config->vlan)
		return VXP_EXIT_OTHER_VLAN;
	if (type == bpf_htons(ETH_P_IP))
		return steer_ipv4(cursor, config);
	if (type == bpf_htons(ETH_P_IPV6))
		return steer_ipv6(cursor, config);
	if (type == bpf_htons(ETH_P_ARP))
		return steer_arp(cursor, config);
	return VXP_EXIT_OTHER_PROTOCOL;
}

SEC("xdp")
int vxplane_xdp(struct xdp_md *ctx)
{
	struct cursor cursor = {(void *)(long)ctx->data, (void *)(long)ctx->data_end};
	__u32 zero = 0;
	struct vxp_config *config = bpf_map_lookup_elem(&vxp_config, &zero);

	if (!config)
		return XDP_ABORTED; /* cannot be: index 0 of an array of one */
	if (config->mode == VXP_MODE_TAKE_ALL)
		return leave(ctx, config, VXP_EXIT_TAKEN);
	if (config->mode != VXP_MODE_STEER)
		return leave(ctx, config, VXP_EXIT_NOT_CONFIGURED);
	return leave(ctx, config, steer(&cursor, config));
}

char _license[] SEC("license") = "Apache-2.0";
