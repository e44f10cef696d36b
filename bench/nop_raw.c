// SPDX-License-Identifier: MIT
// What nop.c does, with the kernel's header alone: nop_raw BATCH ROUNDS, nanoseconds per operation.
#include <linux/io_uring.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static long long now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000000000LL + ts.tv_nsec;
}

static char *map(int fd, size_t size, long long offset)
{
	char *memory = mmap(0, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, offset);

	if (memory == MAP_FAILED)
		exit(1);
	return memory;
}

int main(int argc, char **argv)
{
	struct io_uring_params p = {0};
	long long best = 1LL << 60;
	int batch, rounds, fd;

	if (argc != 3)
		return 1;
	batch = atoi(argv[1]);
	rounds = atoi(argv[2]);
	fd = syscall(__NR_io_uring_setup, 256, &p);
	if (fd < 0)
		return 1;

	char *sq = map(fd, p.sq_off.array + p.sq_entries * sizeof(unsigned), IORING_OFF_SQ_RING);
	char *cq = map(fd, p.cq_off.cqes + p.cq_entries * sizeof(struct io_uring_cqe), IORING_OFF_CQ_RING);
	struct io_uring_sqe *sqes = (void *)map(fd, p.sq_entries * sizeof(*sqes), IORING_OFF_SQES);
	struct io_uring_cqe *cqes = (void *)(cq + p.cq_off.cqes);
	unsigned *sqktail = (void *)(sq + p.sq_off.tail), *array = (void *)(sq + p.sq_off.array);
	unsigned *cqkhead = (void *)(cq + p.cq_off.head), *cqktail = (void *)(cq + p.cq_off.tail);
	unsigned tail = *sqktail, head = *cqkhead;

	for (unsigned i = 0; i < p.sq_entries; i++)
		array[i] = i;
	for (int round = 0; round < rounds; round++) {
		long long start = now(), took;
		unsigned long long sum = 0;
		unsigned end, seen = 0;

		for (int i = 0; i < batch; i++) {
			struct io_uring_sqe *sqe = &sqes[tail++ & (p.sq_entries - 1)];

			memset(sqe, 0, sizeof(*sqe));
			sqe->opcode = IORING_OP_NOP;
			sqe->fd = -1;
			sqe->user_data = i;
		}
		__atomic_store_n(sqktail, tail, __ATOMIC_RELEASE);
		if (syscall(__NR_io_uring_enter, fd, batch, batch, IORING_ENTER_GETEVENTS, 0, 0) != batch)
			return 2;
		end = __atomic_load_n(cqktail, __ATOMIC_ACQUIRE);
		for (; head != end; head++, seen++)
			sum += cqes[head & (p.cq_entries - 1)].user_data;
		__atomic_store_n(cqkhead, head, __ATOMIC_RELEASE);
		took = now() - start;
		if (seen != (unsigned)batch || sum != (unsigned long long)batch * (batch - 1) / 2)
			return 3;
		if (took < best)
			best = took;
	}
	printf("%.1f\n", (double)best / batch);
	return 0;
}
