/* SPDX-License-Identifier: Apache-2.0 */
/* What the BPF programs and userspace share: C11 that compiles as C++. Only <linux/types.h>. */
#ifndef VXPLANE_EBPF_SHARED_H
#define VXPLANE_EBPF_SHARED_H

#include <linux/types.h>

#define VXP_MAX_QUEUES 64
#define VXP_XDP_OBJECT "vxplane_xdp.bpf.o"
#define VXP_TC_OBJECT "vxplane_take.bpf.o"
#define VXP_DELIVER_OBJECT "vxplane_deliver.bpf.o"
#define VXP_XDP_PROGRAM "vxplane_xdp"   /* the program's name: how a leftover of our own is known */
#define VXP_TC_PROGRAM "vxplane_take"
#define VXP_FILTER_PROGRAM "vxplane_filter"
#define VXP_DELIVER_PROGRAM "vxplane_deliver" /* 15 characters: the kernel keeps no more */

/* Every way out of the XDP program, counted per CPU in map vxp_exits under this index. Append only. */
enum vxp_exit {
	VXP_EXIT_REDIRECTED,      /* VXLAN for us: to the AF_XDP socket of its queue */
	VXP_EXIT_OWN_ADDRESS,     /* ARP, ND, ICMP, fragments of UDP or ICMP for an address the dataplane owns: to the socket */
	VXP_EXIT_NOT_CONFIGURED,  /* no configuration yet: passed */
	VXP_EXIT_STALE,           /* heartbeat older than the limit: passed, but for own addresses */
	VXP_EXIT_OTHER_VLAN,      /* another VLAN, or tagged where untagged is expected: passed */
	VXP_EXIT_OTHER_PROTOCOL,  /* not IPv4, IPv6 UDP: passed */
	VXP_EXIT_OTHER_ADDRESS,   /* destination is not a local VTEP: passed */
	VXP_EXIT_OTHER_PORT,      /* not our VXLAN port: passed */
	VXP_EXIT_FRAGMENT,        /* a fragment: passed, the kernel reassembles */
	VXP_EXIT_BAD_FLAGS,       /* VXLAN I flag clear: passed */
	VXP_EXIT_UNKNOWN_VNI,     /* VNI not ours (a kernel vxlan device may have it): passed */
	VXP_EXIT_TRUNCATED,       /* too short to tell: passed */
	VXP_EXIT_NO_SOCKET,       /* for us but no socket on this queue: passed */
	VXP_EXIT_TAKEN,           /* take-all port: to the socket */
	VXP_EXIT_BYPASS,          /* would be ours, but bypass is on: passed */
	VXP_EXIT_COUNT
};

enum vxp_mode {
	VXP_MODE_OFF = 0,       /* everything passes */
	VXP_MODE_STEER = 1,     /* underlay: VXLAN for us is taken */
	VXP_MODE_TAKE_ALL = 2,  /* guest port: every frame is taken */
};

/* What a later run has to know should this one crash: the maps of the program left behind carry it. */
#define VXP_FLAG_RESTORE_RXVLAN 1 /* rxvlan was on before vxplane turned it off */
/* Nothing is taken. In the same field, so that one store switches it. */
#define VXP_FLAG_BYPASS 2
/* A kernel bridge stands by: what a packet socket cannot express, and what a worker is late for, is the kernel's alone.
 * take.bpf.c only. */
#define VXP_FLAG_STANDBY 4

#define VXP_STALE_NS 50000000ull /* the limit unless userspace is told another: 50 ms */

/* Map vxp_config: array of one. Written by userspace as a whole before mode is set. */
struct vxp_config {
	__u32 mode;             /* enum vxp_mode */
	__u32 own_address;      /* 1: ARP, ND, ICMP and fragments of UDP or ICMP for local addresses are taken too */
	__u16 vlan;             /* outer VID, host order; 0: untagged */
	__u16 flags;            /* VXP_FLAG_*; kept over a change of mode */
	__u32 reserved;
	__u64 stale_after_ns;   /* heartbeat older than this: everything passes */
};

/* Key of map vxp_locals (hash; value __u32, non-zero): a local VTEP address (IPv4 as ::ffff:a.b.c.d) and UDP port.
 * Port 0 stands for the address itself: always there, so that another port is told from another address. */
struct vxp_local_key {
	__u8 address[16] __attribute__((aligned(4)));
	__u16 port;             /* network order */
	__u16 reserved;         /* 0 */
};

/* Map vxp_common: array of one. One key each of vxp_locals and vxp_vnis, which is looked at before those maps: most frames are for
 * it, and hashing costs several times as much. Never what is not in the maps. */
struct vxp_common {
	struct vxp_local_key local; /* with a `reserved` that is not 0: none */
	__u32 vni;                  /* VXP_NO_VNI: none */
};
#define VXP_NO_VNI 0xffffffffu

/* Map vxp_vnis: hash, key __u32 VNI (host order), value __u32. */
/* Map vxp_heartbeat: BPF_F_MMAPABLE array of VXP_MAX_QUEUES struct vxp_beat, index = RX queue.
 * The worker that polls the queue stores CLOCK_MONOTONIC nanoseconds at least every 20 ms. The programs compare it with
 * CLOCK_MONOTONIC_COARSE, a tick (1 to 10 ms) behind at most: to read the exact clock waits for the frame to come from memory. */
struct vxp_beat {
	__u64 monotonic_ns;
};

#define VXP_MAX_LOCALS 256
#define VXP_MAX_VNIS 256

/* take.bpf.c. Map vxp_take: array of one, of all queues. Map vxp_heartbeat as above, index = AF_PACKET queue.
 * Map vxp_exits: VXP_TAKE_COUNT per-CPU counters, written by the socket filter, which decides. Append only. */
struct vxp_take_config {
	__u32 flags;            /* VXP_FLAG_BYPASS, VXP_FLAG_STANDBY */
	__u32 unfollowed;       /* set by the filter: a taken frame did not come to our tc program, so the kernel had it, too */
	__u64 stale_after_ns;   /* a queue's heartbeat older than this: its frames pass; 0 at first */
};
enum vxp_take_exit {
	VXP_TAKE_TAKEN,  /* to the packet socket only */
	VXP_TAKE_STALE,  /* passed: the queue's worker does not beat; without a standby to the socket, too */
	VXP_TAKE_BYPASS, /* passed */
	VXP_TAKE_OTHER_GSO, /* passed, where a kernel bridge stands by: a super-frame other than TCP's */
	VXP_TAKE_UNFOLLOWED, /* passed, where a kernel bridge stands by: `unfollowed` is set, that bridge has every frame */
	VXP_TAKE_COUNT
};

/* deliver.bpf.c. Map vxp_deliver: array of one __u32, the ifindex whose ingress gets the frames; 0: they stay. */

#endif
