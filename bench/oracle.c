// SPDX-License-Identifier: MIT
// C with liburing: the other side of the workloads in systems.py.
//
//     oracle nop SIZE REPEAT | poll SIZE REPEAT | ready READY OF REPEAT | monitor READY OF REPEAT
//     oracle change COUNT REPEAT
//     oracle wait USEC REPEAT | epoll USEC REPEAT | read FILE DIRECT DEPTH COUNT
//     oracle serve | talk PORT CONNECTIONS MESSAGES
//
// Prints "ready" (serve: "port N"), then one number, nanoseconds per operation, for each line that it reads.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define FLAGS (IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_SUBMIT_ALL)
#define BLOCK 4096

static struct io_uring ring;
static double took[100000];
static int watched[100000];

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1e9 + ts.tv_nsec;
}

static void check(int result, const char *what)
{
	if (result < 0) {
		fprintf(stderr, "%s: %s\n", what, strerror(result == -1 ? errno : -result));
		exit(1);
	}
}

static int by_size(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return x < y ? -1 : x > y;
}

static double median(int count)
{
	qsort(took, count, sizeof(took[0]), by_size);
	return took[count / 2];
}

// The fastest of some batches of NOPs, or of polls of a ready descriptor.
static double batch(int fd, int size, int repeat)
{
	double best = 1e18;

	for (int i = 0; i < repeat; i++) {
		struct io_uring_cqe *cqe;
		double start = now(), end;
		unsigned head, seen = 0;
		long long sum = 0;

		for (int k = 0; k < size; k++) {
			struct io_uring_sqe *sqe = io_uring_get_sqe(&ring);

			if (fd < 0)
				io_uring_prep_nop(sqe);
			else
				io_uring_prep_poll_add(sqe, fd, POLLIN);
			io_uring_sqe_set_data64(sqe, k);
		}
		check(io_uring_submit_and_wait(&ring, size), "submit_and_wait");
		io_uring_for_each_cqe(&ring, head, cqe) {
			sum += cqe->user_data;
			seen++;
		}
		io_uring_cq_advance(&ring, seen);
		end = now();
		if (seen != (unsigned)size || sum != (long long)size * (size - 1) / 2)
			check(-EIO, "batch");
		if (end - start < best)
			best = end - start;
	}
	return best / size;
}

static int epoll_of(int ready, int of)
{
	int epfd = epoll_create1(0);

	for (int i = 0; i < of; i++) {
		struct epoll_event event = { .events = EPOLLIN, .data.u64 = i };
		struct sockaddr_un name = { .sun_family = AF_UNIX };
		socklen_t length = sizeof(name);
		int fd = socket(AF_UNIX, SOCK_DGRAM, 0);

		check(fd, "socket");
		watched[i] = fd;
		if (i < ready) {
			int sender = socket(AF_UNIX, SOCK_DGRAM, 0);

			check(bind(fd, (struct sockaddr *)&name, sizeof(name.sun_family)), "bind");
			check(getsockname(fd, (struct sockaddr *)&name, &length), "getsockname");
			check(sendto(sender, "x", 1, 0, (struct sockaddr *)&name, length), "sendto");
			close(sender);
		}
		check(epoll_ctl(epfd, EPOLL_CTL_ADD, fd, &event), "epoll_ctl");
	}
	return epfd;
}

static double ask(int epfd, int ready, int of, int repeat)
{
	static struct epoll_event events[100000];
	double best = 1e18;

	for (int i = 0; i < repeat; i++) {
		double start = now(), end;

		if (epoll_wait(epfd, events, of, 1000) != ready)
			check(-EIO, "epoll_wait");
		end = now();
		if (end - start < best)
			best = end - start;
	}
	return best / ready;
}

static double change(int epfd, int count, int repeat)
{
	double best = 1e18;

	for (int i = 0; i < repeat; i++) {
		double start = now(), end;

		for (int k = 0; k < count; k++) {
			struct epoll_event event = { .events = i % 2 ? EPOLLIN : EPOLLIN | EPOLLPRI, .data.u64 = k };

			check(epoll_ctl(epfd, EPOLL_CTL_MOD, watched[k], &event), "epoll_ctl");
		}
		end = now();
		if (end - start < best)
			best = end - start;
	}
	return best / count;
}

// The median time of a wait in which nothing happens.
static double idle(int epfd, int usec, int repeat)
{
	struct __kernel_timespec ts = { .tv_nsec = usec * 1000LL };

	for (int i = 0; i < repeat; i++) {
		struct io_uring_cqe *cqe;
		struct epoll_event event;
		double start = now();

		if (epfd < 0)
			io_uring_submit_and_wait_timeout(&ring, &cqe, 1, &ts, NULL);
		else
			epoll_wait(epfd, &event, 1, (usec + 999) / 1000);
		took[i] = now() - start;
	}
	return median(repeat);
}

static unsigned long long random_block(unsigned long long blocks)
{
	static unsigned long long state = 88172645463325252ULL;

	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return state % blocks;
}

// Random reads with a fixed number in flight.
static double reads(int fd, char *memory, unsigned long long blocks, int depth, int count)
{
	double start = now();
	int sent = 0, done = 0;

	for (; sent < depth; sent++) {
		struct io_uring_sqe *sqe = io_uring_get_sqe(&ring);

		io_uring_prep_read(sqe, fd, memory + sent * BLOCK, BLOCK, random_block(blocks) * BLOCK);
		io_uring_sqe_set_data64(sqe, sent);
	}
	while (done < count) {
		struct io_uring_cqe *cqe;
		unsigned head, seen = 0;

		check(io_uring_submit_and_wait(&ring, 1), "submit_and_wait");
		io_uring_for_each_cqe(&ring, head, cqe) {
			if (cqe->res != BLOCK)
				check(-EIO, "read");
			seen++;
			if (sent < count) {
				struct io_uring_sqe *sqe = io_uring_get_sqe(&ring);

				io_uring_prep_read(sqe, fd, memory + cqe->user_data * BLOCK, BLOCK,
						   random_block(blocks) * BLOCK);
				io_uring_sqe_set_data64(sqe, cqe->user_data);
				sent++;
			}
		}
		io_uring_cq_advance(&ring, seen);
		done += seen;
	}
	return (now() - start) / count;
}

static void poll_again(int i)
{
	struct io_uring_sqe *sqe;

	while (!(sqe = io_uring_get_sqe(&ring)))
		check(io_uring_submit(&ring), "submit");
	io_uring_prep_poll_add(sqe, watched[i], POLLIN);
	io_uring_sqe_set_data64(sqe, i);
}

// One-shot polls, re-armed with the next submit, as in fdmon.py and QEMU.
static double monitor(int ready, int repeat)
{
	struct __kernel_timespec ts = { .tv_sec = 1 };
	static unsigned seen[8192];
	double best = 1e18;

	for (int i = 0; i < repeat; i++) {
		struct io_uring_cqe *cqe;
		double start = now(), end;
		unsigned head, count = 0, want;

		io_uring_submit_and_wait_timeout(&ring, &cqe, 1, &ts, NULL);
		want = io_uring_cq_ready(&ring);
		io_uring_for_each_cqe(&ring, head, cqe) {
			if (count == want || cqe->res != POLLIN)
				break;
			seen[count++] = cqe->user_data;
		}
		io_uring_cq_advance(&ring, count);
		for (unsigned k = 0; k < count; k++)
			poll_again(seen[k]);
		end = now();
		if (count != (unsigned)ready)
			check(-EIO, "monitor");
		if (end - start < best)
			best = end - start;
	}
	return best / ready;
}

// An echo server with multishot accept and receive on provided buffers.
#define BUFFERS 4096
#define BUFFER 256
#define ACCEPTED (1ULL << 32)
#define SENT (2ULL << 32)

static void serve(void)
{
	struct sockaddr_in address = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t length = sizeof(address);
	struct io_uring_buf_ring *group = aligned_alloc(4096, BUFFERS * sizeof(struct io_uring_buf));
	struct io_uring_buf_reg registration = { .ring_addr = (unsigned long)group, .ring_entries = BUFFERS };
	int listener = socket(AF_INET, SOCK_STREAM, 0), one = 1;
	char *memory = malloc(BUFFERS * BUFFER);
	struct io_uring_sqe *sqe;

	check(bind(listener, (struct sockaddr *)&address, sizeof(address)), "bind");
	check(listen(listener, 4096), "listen");
	getsockname(listener, (struct sockaddr *)&address, &length);
	io_uring_buf_ring_init(group);
	check(io_uring_register_buf_ring(&ring, &registration, 0), "register_buf_ring");
	for (int i = 0; i < BUFFERS; i++)
		io_uring_buf_ring_add(group, memory + i * BUFFER, BUFFER, i, BUFFERS - 1, i);
	io_uring_buf_ring_advance(group, BUFFERS);
	printf("port %d\n", ntohs(address.sin_port));
	fflush(stdout);
	sqe = io_uring_get_sqe(&ring);
	io_uring_prep_multishot_accept(sqe, listener, NULL, NULL, 0);
	io_uring_sqe_set_data64(sqe, ACCEPTED);
	for (;;) {
		struct io_uring_cqe *cqe;
		unsigned head, seen = 0;

		check(io_uring_submit_and_wait(&ring, 1), "submit_and_wait");
		io_uring_for_each_cqe(&ring, head, cqe) {
			unsigned long long data = cqe->user_data;
			int receiver = -1;

			seen++;
			if (data & ACCEPTED) {
				receiver = cqe->res;
				setsockopt(receiver, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
			} else if (data & SENT) {
				int id = data >> 40;

				io_uring_buf_ring_add(group, memory + id * BUFFER, BUFFER, id, BUFFERS - 1, 0);
				io_uring_buf_ring_advance(group, 1);
			} else if (cqe->res > 0) {
				int id = cqe->flags >> IORING_CQE_BUFFER_SHIFT;

				sqe = io_uring_get_sqe(&ring);
				io_uring_prep_send(sqe, (int)data, memory + id * BUFFER, cqe->res, 0);
				io_uring_sqe_set_data64(sqe, SENT | (unsigned long long)id << 40);
				if (!(cqe->flags & IORING_CQE_F_MORE))
					receiver = (int)data;
			} else if (cqe->res == -ENOBUFS) {
				receiver = (int)data;
			} else {
				close((int)data);
			}
			if (receiver >= 0) {
				sqe = io_uring_get_sqe(&ring);
				io_uring_prep_recv_multishot(sqe, receiver, NULL, 0, 0);
				sqe->flags |= IOSQE_BUFFER_SELECT;
				io_uring_sqe_set_data64(sqe, receiver);
			}
		}
		io_uring_cq_advance(&ring, seen);
	}
}

// Every connection sends a message, waits for its echo, and sends the next.
static double talk(int epfd, const int *socks, int connections, int messages)
{
	static struct epoll_event events[4096];
	char message[100] = "", answer[4096];
	int sent = 0, done = 0;
	double start = now();

	for (; sent < connections; sent++)
		check(send(socks[sent], message, sizeof(message), 0), "send");
	while (done < messages) {
		int count = epoll_wait(epfd, events, 4096, 10000);

		if (count <= 0)
			check(-ETIMEDOUT, "no echo");
		for (int i = 0; i < count; i++) {
			int sock = events[i].data.fd, got = 0;

			while (got < (int)sizeof(message)) {
				int n = recv(sock, answer, sizeof(message) - got, 0);

				if (n <= 0)
					check(-EIO, "recv");
				got += n;
			}
			done++;
			if (sent < messages) {
				check(send(sock, message, sizeof(message), 0), "send");
				sent++;
			}
		}
	}
	return (now() - start) / messages;
}

static int *connect_all(int port, int count, int epfd)
{
	struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons(port) };
	int *socks = malloc(count * sizeof(int)), one = 1;

	address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	for (int i = 0; i < count; i++) {
		struct epoll_event event = { .events = EPOLLIN };

		socks[i] = event.data.fd = socket(AF_INET, SOCK_STREAM, 0);
		check(connect(socks[i], (struct sockaddr *)&address, sizeof(address)), "connect");
		setsockopt(socks[i], IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
		check(epoll_ctl(epfd, EPOLL_CTL_ADD, socks[i], &event), "epoll_ctl");
	}
	return socks;
}

int main(int argc, char **argv)
{
	const char *what = argc > 1 ? argv[1] : "";
	int a = argc > 2 ? atoi(argv[2]) : 0, b = argc > 3 ? atoi(argv[3]) : 0, c = argc > 4 ? atoi(argv[4]) : 0;
	int fd = -1, epfd = -1, depth = 0, count = 0, *socks = NULL;
	unsigned long long blocks = 0;
	char *memory = NULL, line[64];
	struct stat st;

	struct rlimit limit;

	prctl(PR_SET_PDEATHSIG, SIGTERM);
	getrlimit(RLIMIT_NOFILE, &limit);
	limit.rlim_cur = limit.rlim_max;
	setrlimit(RLIMIT_NOFILE, &limit);
	if (io_uring_queue_init(strcmp(what, "serve") && strcmp(what, "monitor") ? 512 : 4096, &ring, FLAGS))
		check(io_uring_queue_init(512, &ring, 0), "queue_init");
	if (!strcmp(what, "serve"))
		serve();
	if (!strcmp(what, "poll"))
		fd = eventfd(1, 0);
	if (!strcmp(what, "ready") || !strcmp(what, "monitor"))
		epfd = epoll_of(a, b);
	if (!strcmp(what, "monitor"))
		for (int i = 0; i < b; i++)
			poll_again(i);
	if (!strcmp(what, "change"))
		epfd = epoll_of(0, a);
	if (!strcmp(what, "epoll"))
		epfd = epoll_of(0, 1);
	if (!strcmp(what, "read")) {
		fd = open(argv[2], O_RDONLY | (b ? O_DIRECT : 0));
		check(fd, argv[2]);
		fstat(fd, &st);
		blocks = st.st_size / BLOCK;
		depth = c;
		count = atoi(argv[5]);
		memory = aligned_alloc(BLOCK, depth * BLOCK);
	}
	if (!strcmp(what, "talk")) {
		epfd = epoll_create1(0);
		socks = connect_all(a, b, epfd);
	}
	puts("ready");
	fflush(stdout);
	while (fgets(line, sizeof(line), stdin)) {
		double result = 0;

		if (!strcmp(what, "nop") || !strcmp(what, "poll"))
			result = batch(fd, a, b);
		else if (!strcmp(what, "ready"))
			result = ask(epfd, a, b, c);
		else if (!strcmp(what, "monitor"))
			result = monitor(a, c);
		else if (!strcmp(what, "change"))
			result = change(epfd, a, b);
		else if (!strcmp(what, "wait") || !strcmp(what, "epoll"))
			result = idle(epfd, a, b);
		else if (!strcmp(what, "read"))
			result = reads(fd, memory, blocks, depth, count);
		else if (!strcmp(what, "talk"))
			result = talk(epfd, socks, b, c);
		else
			return 2;
		printf("%.1f\n", result);
		fflush(stdout);
	}
	return 0;
}
