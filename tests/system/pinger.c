// SPDX-License-Identifier: Apache-2.0
// Streams of numbered UDP datagrams between network namespaces, there and back, and what became of each one of them.
//
// pinger PERIOD_US SECONDS SIZE {NAMESPACE ADDRESS NAMESPACE ADDRESS}...
//
// One process holds both ends of every stream, so one clock times all of it. Every PERIOD_US each stream's near end sends the next
// number; the far end answers the first copy of each. Sends that are late are caught up. Ends SECONDS after the start, or on SIGTERM;
// then it still waits LINGER for what is on its way. Prints "ready" when it starts to send; at the end, for each stream in order, as native 64-bit integers:
// sent, extras, reordered, refused; `sent` times (time sent, time at the far end, time back); `extras` times (number, end, time).
// Times are CLOCK_MONOTONIC in ns, 0: never. Extras are further copies: end 0 is the far end, 1 the near one.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { MAX_STREAMS = 32, MAX_EXTRAS = 65536, PORT = 7100, BUFFER = 8 << 20, MAGIC = 0x70696e67 };
static const int64_t LINGER = 500 * 1000 * 1000;

struct Datagram {
  uint32_t magic, stream, is_answer, number;
};

struct Record {
  int64_t sent, far, back;
};

struct Extra {
  int64_t number, end, time;
};

struct Stream {
  int near, far;  // sockets
  struct sockaddr_storage near_address, far_address;
  struct Record *records;
  struct Extra *extras;
  int64_t sent, extra_count, reordered, refused;
  int64_t highest[2];  // number seen, at the far end and back at the near one
};

static volatile sig_atomic_t stopping;

static void on_signal(int number) {
  (void)number;
  stopping = 1;
}

static void fail(const char *what) {
  fprintf(stderr, "pinger: %s: %s\n", what, strerror(errno));
  exit(1);
}

static int64_t now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (int64_t)time.tv_sec * 1000000000 + time.tv_nsec;
}

static void *table(size_t bytes) {
  // Touched when used, and never moved: no pause while the stream runs.
  void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) fail("mmap");
  return memory;
}

static socklen_t parse(const char *text, int port, struct sockaddr_storage *address) {
  struct sockaddr_in *four = (struct sockaddr_in *)address;
  struct sockaddr_in6 *six = (struct sockaddr_in6 *)address;
  memset(address, 0, sizeof *address);
  if (inet_pton(AF_INET, text, &four->sin_addr) == 1) {
    four->sin_family = AF_INET;
    four->sin_port = htons((uint16_t)port);
    return sizeof *four;
  }
  if (inet_pton(AF_INET6, text, &six->sin6_addr) != 1) {
    fprintf(stderr, "pinger: %s is no address\n", text);
    exit(1);
  }
  six->sin6_family = AF_INET6;
  six->sin6_port = htons((uint16_t)port);
  return sizeof *six;
}

static int open_end(const char *name_space, const char *text, int port, struct sockaddr_storage *address) {
  char path[256];
  snprintf(path, sizeof path, "/run/netns/%s", name_space);
  int descriptor = open(path, O_RDONLY | O_CLOEXEC);
  if (descriptor < 0 || setns(descriptor, CLONE_NEWNET)) fail(path);
  close(descriptor);
  socklen_t length = parse(text, port, address);
  int end = socket(address->ss_family, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  int size = BUFFER;  // a reader that has to wait for its CPU must not count as loss
  if (end < 0 || bind(end, (struct sockaddr *)address, length)) fail(text);
  if (setsockopt(end, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof size)) fail("SO_RCVBUFFORCE");
  return end;
}

static int transmit(int end, const struct sockaddr_storage *to, struct Datagram *datagram, char *bytes, size_t size) {
  socklen_t length = to->ss_family == AF_INET ? sizeof(struct sockaddr_in) : sizeof(struct sockaddr_in6);
  memcpy(bytes, datagram, sizeof *datagram);
  return sendto(end, bytes, size, 0, (const struct sockaddr *)to, length) < 0 ? -1 : 0;
}

// Everything that waits at one end of a stream.
static void drain(struct Stream *stream, uint32_t index, int is_near, char *bytes, size_t size) {
  char data[2048];
  struct Datagram datagram;
  ssize_t length;
  // Bounded: frames that go round in a circle must not keep this from its other streams, nor from ending.
  for (int left = 256; left > 0 && (length = recv(is_near ? stream->near : stream->far, data, sizeof data, 0)) >= 0; --left) {
    int64_t time = now();
    if ((size_t)length < sizeof datagram) continue;
    memcpy(&datagram, data, sizeof datagram);
    if (datagram.magic != MAGIC || datagram.stream != index || datagram.is_answer != (uint32_t)is_near || datagram.number >= stream->sent) continue;
    struct Record *record = &stream->records[datagram.number];
    int64_t *arrived = is_near ? &record->back : &record->far;
    if (*arrived) {
      if (stream->extra_count < MAX_EXTRAS) stream->extras[stream->extra_count++] = (struct Extra){datagram.number, is_near, time};
      continue;
    }
    *arrived = time;
    if (datagram.number < stream->highest[is_near])
      ++stream->reordered;
    else
      stream->highest[is_near] = datagram.number;
    if (!is_near) {
      datagram.is_answer = 1;
      if (transmit(stream->far, &stream->near_address, &datagram, bytes, size)) ++stream->refused;
    }
  }
}

static void write_all(const void *data, size_t size) {
  for (size_t done = 0; done < size;) {
    ssize_t count = write(1, (const char *)data + done, size - done);
    if (count < 0) fail("write");
    done += (size_t)count;
  }
}

int main(int argc, char **argv) {
  int count = (argc - 4) / 4;
  if (argc < 8 || (argc - 4) % 4 || count > MAX_STREAMS) {
    fprintf(stderr, "usage: pinger PERIOD_US SECONDS SIZE {NAMESPACE ADDRESS NAMESPACE ADDRESS}...\n");
    return 2;
  }
  int64_t period = atoll(argv[1]) * 1000, limit = atoll(argv[2]) * 1000000000;
  size_t size = (size_t)atoll(argv[3]);
  char bytes[2048];
  if (period <= 0 || limit <= 0 || size < sizeof(struct Datagram) || size > sizeof bytes) {
    fprintf(stderr, "pinger: period, seconds or size is out of range\n");
    return 2;
  }
  memset(bytes, 0x55, sizeof bytes);
  struct Stream *streams = table(sizeof(struct Stream) * MAX_STREAMS);
  struct pollfd polled[2 * MAX_STREAMS];
  for (int i = 0; i < count; ++i) {
    struct Stream *stream = &streams[i];
    stream->near = open_end(argv[4 + 4 * i], argv[5 + 4 * i], PORT + i, &stream->near_address);
    stream->far = open_end(argv[6 + 4 * i], argv[7 + 4 * i], PORT + MAX_STREAMS + i, &stream->far_address);
    stream->records = table(sizeof(struct Record) * (size_t)(limit / period + 2));
    stream->extras = table(sizeof(struct Extra) * MAX_EXTRAS);
    polled[2 * i] = (struct pollfd){stream->far, POLLIN, 0};
    polled[2 * i + 1] = (struct pollfd){stream->near, POLLIN, 0};
  }
  struct sigaction action = {.sa_handler = on_signal};
  sigaction(SIGTERM, &action, NULL);
  sigaction(SIGINT, &action, NULL);
  prctl(PR_SET_PDEATHSIG, SIGTERM);
  prctl(PR_SET_TIMERSLACK, 1);
  struct sched_param priority = {.sched_priority = 1};
  sched_setscheduler(0, SCHED_FIFO, &priority);  // a few system calls a millisecond; without the right to it, it is only less exact
  write_all("ready\n", 6);

  int64_t start = now(), next = start, end = start + limit;
  for (;;) {
    int64_t time = now();
    if (stopping && end > time) end = time;
    stopping = 0;
    for (; next <= time && next < end; next += period) {
      for (int i = 0; i < count; ++i) {
        struct Stream *stream = &streams[i];
        struct Datagram datagram = {MAGIC, (uint32_t)i, 0, (uint32_t)stream->sent};
        stream->records[stream->sent++].sent = now();
        if (transmit(stream->near, &stream->far_address, &datagram, bytes, size)) ++stream->refused;
      }
    }
    time = now();
    if (time >= end + LINGER) break;
    int64_t wait = (next < end ? next : end + LINGER) - time;
    struct timespec timeout = {wait > 0 ? wait / 1000000000 : 0, wait > 0 ? wait % 1000000000 : 0};
    if (ppoll(polled, (nfds_t)(2 * count), &timeout, NULL) <= 0) continue;
    for (int i = 0; i < 2 * count; ++i) {
      if (polled[i].revents) drain(&streams[i / 2], (uint32_t)i / 2, i % 2, bytes, size);
    }
  }
  for (int i = 0; i < count; ++i) {
    struct Stream *stream = &streams[i];
    int64_t head[] = {stream->sent, stream->extra_count, stream->reordered, stream->refused};
    write_all(head, sizeof head);
    write_all(stream->records, sizeof(struct Record) * (size_t)stream->sent);
    write_all(stream->extras, sizeof(struct Extra) * (size_t)stream->extra_count);
  }
  return 0;
}
