// SPDX-License-Identifier: Apache-2.0
/* An XDP program that is not vxplane's: heal_test.py puts it where vxplane's would be. */
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

SEC("xdp")
int foreign_pass(struct xdp_md *ctx)
{
	return XDP_PASS;
}

char _license[] SEC("license") = "GPL";
