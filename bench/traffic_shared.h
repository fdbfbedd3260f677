/* SPDX-License-Identifier: Apache-2.0 */
/* What vxplane-traffic's BPF programs and its userspace share: C11 that compiles as C++. Only <linux/types.h>. */
#ifndef VXPLANE_BENCH_TRAFFIC_SHARED_H
#define VXPLANE_BENCH_TRAFFIC_SHARED_H

#include <linux/types.h>

#define VXT_SINK_OBJECT "vxplane_traffic_sink.bpf.o"
#define VXT_SINK_PROGRAM "vxt_sink"

#define VXT_MAX_FLOWS 1048576u /* 20 of the 24 bits that a stamp has for them */
#define VXT_MAGIC 0x7876u      /* "vx" in the frame's bytes */

/* The UDP payload's first 18 bytes: what a frame of 60 bytes has room for. Both ends are one machine: host order. */
struct vxt_stamp {
	__u16 magic;
	__u32 flow_run;    /* flow in bits 0-23, run in bits 24-31 */
	__u64 sent_ns;     /* CLOCK_MONOTONIC, of the batch */
	__u32 sequence;    /* of the flow in this run, from 0 */
} __attribute__((packed));

#define VXT_WINDOW_WORDS 4u /* of 64 sequence numbers; a power of two */

/* Map vxt_flows: array, index = flow. Valid only for the run that it names. */
struct vxt_flow {
	__u32 lock;        /* struct bpf_spin_lock */
	__u32 run;
	__u32 next;        /* one above the highest sequence number seen */
	__u32 received;    /* each sequence number once */
	__u32 duplicated;
	__u32 reordered;   /* came after a higher one (RFC 4737 section 3); among `received` */
	__u32 unknown;     /* too far behind to tell a duplicate from a late one; not among `received` */
	__u32 reserved;
	__u64 window[VXT_WINDOW_WORDS]; /* bit: seen; of sequence number s in word s / 64 % VXT_WINDOW_WORDS */
};

/* Latency in ns, 32 buckets an octave (3 %), up to 68 s. */
#define VXT_BUCKETS 1024u

/* Map vxt_cpu: per-CPU array of one. */
struct vxt_cpu {
	__u64 frames;      /* of the run, duplicates too */
	__u64 stale;       /* of another run: dropped, not counted elsewhere */
	__u64 first_ns, last_ns; /* arrival of the run's first and last timed frame here; 0: none */
	__u64 max_latency_ns;
	__u64 latency[VXT_BUCKETS];
};

/* Map vxt_run of the sink: array of one __u32, the run that is counted; 0: none. */

/* The sender in the kernel, traffic_live.bpf.c. Map vxt_out: array, index = flow. */
#define VXT_SEND_OBJECT "vxplane_traffic_live.bpf.o"
#define VXT_SEND_PROGRAM "vxt_send"
#define VXT_HEADER_BYTES 112u /* room; a flow's headers are 42, 46, 92 or 96 */
struct vxt_out {
	__u8 headers[VXT_HEADER_BYTES];
	__u32 sequence;    /* of the next frame: as many were sent */
	__u32 reserved[3];
};

/* Map vxt_pace: array of one. Times are units of 2^-16 ns since start_ns. */
struct vxt_pace {
	__u64 start_ns;    /* 0: with the first page */
	__u64 duration_ns;
	__u64 now_ns;      /* the clock as last read */
	__u64 interval;    /* between frames; 0: as many as can be */
	__u64 due;         /* of the next frame */
	__u64 most_debt;   /* what is later is skipped */
	__u64 skipped;     /* frames */
	__u32 run;
	__u32 position;    /* in the order of flows: map vxt_order, array of __u32 */
	__u32 learned;     /* source MACs used so far, where each frame has another */
	__u32 reserved;
};

static inline __attribute__((always_inline)) __u32 vxt_log2(__u64 value)
{
	__u32 log = 0, step;

	step = (value > 0xffffffffull) << 5; value >>= step; log |= step;
	step = (value > 0xffff) << 4; value >>= step; log |= step;
	step = (value > 0xff) << 3; value >>= step; log |= step;
	step = (value > 0xf) << 2; value >>= step; log |= step;
	step = (value > 0x3) << 1; value >>= step; log |= step;
	return log | (__u32)(value >> 1);
}

static inline __attribute__((always_inline)) __u32 vxt_bucket(__u64 ns)
{
	__u32 octave;

	if (ns < 32)
		return (__u32)ns;
	octave = vxt_log2(ns);
	if (octave > 35)
		return VXT_BUCKETS - 1;
	return (octave - 4) * 32 + ((__u32)(ns >> (octave - 5)) & 31);
}

#endif
