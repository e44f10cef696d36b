// SPDX-License-Identifier: MIT
// NOPs through liburing: nop BATCH ROUNDS prints the nanoseconds per operation of the fastest round.
#include <liburing.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static long long now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000000000LL + ts.tv_nsec;
}

int main(int argc, char **argv)
{
	int batch = atoi(argv[1]), rounds = atoi(argv[2]);
	long long best = 1LL << 60;
	struct io_uring ring;

	if (argc != 3 || io_uring_queue_init(256, &ring, 0))
		return 1;
	for (int round = 0; round < rounds; round++) {
		struct io_uring_cqe *cqe;
		unsigned long long sum = 0;
		long long start = now(), took;
		unsigned head, seen = 0;

		for (int i = 0; i < batch; i++) {
			struct io_uring_sqe *sqe = io_uring_get_sqe(&ring);

			io_uring_prep_nop(sqe);
			sqe->user_data = i;
		}
		if (io_uring_submit_and_wait(&ring, batch) != batch)
			return 2;
		io_uring_for_each_cqe(&ring, head, cqe) {
			sum += cqe->user_data;
			seen++;
		}
		io_uring_cq_advance(&ring, seen);
		took = now() - start;
		if (seen != (unsigned)batch || sum != (unsigned long long)batch * (batch - 1) / 2)
			return 3;
		if (took < best)
			best = took;
	}
	printf("%.1f\n", (double)best / batch);
	io_uring_queue_exit(&ring);
	return 0;
}
