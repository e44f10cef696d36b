/* SPDX-License-Identifier: MIT
 *
 * A ptrace() for user-mode kernels before 7.2 on processors with AMX.
 *
 * What it is: a library for LD_PRELOAD. These kernels write the registers of their processes through a buffer of
 * fixed size, without room for AMX; Linux accepts only the whole state, so they panic at their first process.
 * This one copies the buffer over the current whole state.
 * Invariant: every other request of ptrace(2) is passed on unchanged, in glibc's form.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#define GETREGSET 0x4204
#define SETREGSET 0x4205
#define NT_X86_XSTATE 0x202
#define XSTATE_BV 512   /* the offset of the word that names the states in use */
#define OLD_STATES 0xff /* x87 to AVX-512; with PKRU the states that fit into their buffer */
#define PKRU (1 << 9)

static long call(long request, long pid, long addr, void *data)
{
	register void *fourth __asm__("r10") = data;
	long result;

	__asm__ volatile("syscall" : "=a"(result)
			 : "a"(SYS_ptrace), "D"(request), "S"(pid), "d"(addr), "r"(fourth)
			 : "rcx", "r11", "memory");
	return result;
}

static long set_states(long pid, const struct iovec *given)
{
	static char whole[1 << 16];
	struct iovec room = { whole, sizeof whole };
	uint64_t states;
	long result = call(GETREGSET, pid, NT_X86_XSTATE, &room);

	if (result < 0)
		return result;
	memcpy(whole, given->iov_base, given->iov_len < room.iov_len ? given->iov_len : room.iov_len);
	memcpy(&states, whole + XSTATE_BV, sizeof states);
	states &= OLD_STATES | PKRU;
	memcpy(whole + XSTATE_BV, &states, sizeof states);
	return call(SETREGSET, pid, NT_X86_XSTATE, &room);
}

long ptrace(int request, ...)
{
	va_list rest;
	va_start(rest, request);
	long pid = va_arg(rest, int), addr = va_arg(rest, long);
	void *data = va_arg(rest, void *);
	va_end(rest);

	long word = 0, result;
	int peeks = request >= 1 && request <= 3; /* glibc returns the word, the kernel stores it */

	if (request == SETREGSET && addr == NT_X86_XSTATE)
		result = set_states(pid, data);
	else
		result = call(request, pid, addr, peeks ? &word : data);
	if (result < 0) {
		errno = (int)-result;
		return -1;
	}
	if (peeks)
		errno = 0;
	return peeks ? word : result;
}
