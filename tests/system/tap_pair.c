// SPDX-License-Identifier: Apache-2.0
// What held_tap.py does, where Python takes seconds to start: holds a tap of the host, as QEMU does for a guest, and carries its frames,
// each with its virtio-net header and never looked into, to and from a tap in the guest's namespace.
//
//     tap_pair TAP GUEST_NAMESPACE DEVICE
//
// In the background when both exist. Both go with it.
#define _GNU_SOURCE
#include <err.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <unistd.h>

static int open_tap(const char* name) {
  struct ifreq request = {.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR};
  snprintf(request.ifr_name, sizeof request.ifr_name, "%s", name);
  int header = 12;  // as with mergeable buffers, which is what QEMU and Linux guests agree on
  const int tap = open("/dev/net/tun", O_RDWR | O_NONBLOCK);
  if (tap < 0 || ioctl(tap, TUNSETIFF, &request) != 0 || ioctl(tap, TUNSETVNETHDRSZ, &header) != 0 ||
      ioctl(tap, TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN) != 0)
    err(1, "%s", name);
  return tap;
}

int main(int count, char** words) {
  if (count != 4) errx(2, "tap_pair TAP GUEST_NAMESPACE DEVICE");
  const int host = open_tap(words[1]);
  char path[128];
  snprintf(path, sizeof path, "/run/netns/%s", words[2]);
  const int guests = open(path, O_RDONLY);
  if (guests < 0 || setns(guests, CLONE_NEWNET) != 0) err(1, "%s", path);
  struct pollfd ends[2] = {{.fd = host, .events = POLLIN}, {.fd = open_tap(words[3]), .events = POLLIN}};
  if (daemon(0, 0) != 0) err(1, "daemon");
  static char frame[12 + 65536 + 32];
  for (;;) {
    if (poll(ends, 2, -1) < 0 || ((ends[0].revents | ends[1].revents) & POLLERR)) return 0;  // a tap was removed
    for (int from = 0; from < 2; ++from) {
      const ssize_t length = read(ends[from].fd, frame, sizeof frame);
      // The other end is down, or does not take this frame: lost, as QEMU would lose it.
      if (length > 0 && write(ends[!from].fd, frame, (size_t)length) < 0) continue;
    }
  }
}
