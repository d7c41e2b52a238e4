/* Preloaded into a server's processes, it moves their wall clock; the monotonic one stays.

   QWEN3GUARD_CLOCKS names a file of three numbers of 64 bits: by how many seconds, for the
   supervisor, for the gateway's workers, and for Triton with its stub. It is mapped, so that a
   change is seen at once. Deadlines by the wall clock are moved back for the kernel, whose clock
   did not move. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

enum { SUPERVISOR, WORKER, TRITON, PARTS };
static int64_t still[PARTS];
static volatile int64_t *moved = still;

static int (*real_clock_gettime)(clockid_t, struct timespec *);
static int (*real_cond_timedwait)(pthread_cond_t *, pthread_mutex_t *, const struct timespec *);
static int (*real_cond_clockwait)(pthread_cond_t *, pthread_mutex_t *, clockid_t,
                                  const struct timespec *);
static int (*real_sem_timedwait)(sem_t *, const struct timespec *);
static long (*real_syscall)(long, ...);

__attribute__((constructor(101))) static void begin(void) {
  real_clock_gettime = dlsym(RTLD_NEXT, "clock_gettime");
  /* Without a version it may be the one of before 2002. */
  real_cond_timedwait = dlvsym(RTLD_NEXT, "pthread_cond_timedwait", "GLIBC_2.3.2");
  real_cond_clockwait = dlsym(RTLD_NEXT, "pthread_cond_clockwait");
  real_sem_timedwait = dlsym(RTLD_NEXT, "sem_timedwait");
  real_syscall = dlsym(RTLD_NEXT, "syscall");
  char words[4096] = "";
  int command = open("/proc/self/cmdline", O_RDONLY | O_CLOEXEC);
  ssize_t length = command < 0 ? 0 : read(command, words, sizeof words - 1);
  close(command);
  for (ssize_t n = 0; n + 1 < length; n++)
    if (!words[n]) words[n] = ' ';
  int part = strstr(words, "guard_server") ? WORKER : SUPERVISOR;
  if (strstr(words, "tritonserver") || strstr(words, "triton_python_backend_stub")) part = TRITON;
  const char *path = getenv("QWEN3GUARD_CLOCKS");
  int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
  if (file < 0) return;
  void *mapped = mmap(NULL, sizeof still, PROT_READ, MAP_SHARED, file, 0);
  if (mapped != MAP_FAILED) moved = (volatile int64_t *)mapped + part;
  close(file);
}

int clock_gettime(clockid_t clock, struct timespec *now) {
  if (!real_clock_gettime) begin();
  int failed = real_clock_gettime(clock, now);
  if (!failed && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) now->tv_sec += *moved;
  return failed;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
  (void)zone;
  struct timespec found;
  clock_gettime(CLOCK_REALTIME, &found);
  now->tv_sec = found.tv_sec;
  now->tv_usec = found.tv_nsec / 1000;
  return 0;
}

time_t time(time_t *seconds) {
  struct timespec found;
  clock_gettime(CLOCK_REALTIME, &found);
  if (seconds) *seconds = found.tv_sec;
  return found.tv_sec;
}

/* By the kernel's clock. A deadline by the monotonic clock counts from the machine's start. */
static struct timespec kernels(const struct timespec *deadline) {
  struct timespec found = *deadline;
  if (found.tv_sec > 1000000000) found.tv_sec -= *moved;
  return found;
}

int pthread_cond_timedwait(pthread_cond_t *restrict condition, pthread_mutex_t *restrict mutex,
                           const struct timespec *restrict deadline) {
  struct timespec at = kernels(deadline);
  return real_cond_timedwait(condition, mutex, &at);
}

int pthread_cond_clockwait(pthread_cond_t *restrict condition, pthread_mutex_t *restrict mutex,
                           clockid_t clock, const struct timespec *restrict deadline) {
  struct timespec at = kernels(deadline);
  return real_cond_clockwait(condition, mutex, clock, &at);
}

int sem_timedwait(sem_t *restrict semaphore, const struct timespec *restrict deadline) {
  struct timespec at = kernels(deadline);
  return real_sem_timedwait(semaphore, &at);
}

/* Abseil waits so. */
long syscall(long number, ...) {
  if (!real_syscall) begin();
  long words[6];
  va_list rest;
  va_start(rest, number);
  for (int n = 0; n < 6; n++) words[n] = va_arg(rest, long);
  va_end(rest);
  struct timespec at;
  if (number == SYS_futex && words[1] & FUTEX_CLOCK_REALTIME && words[3]) {
    at = kernels((const struct timespec *)words[3]);
    words[3] = (long)&at;
  }
  return real_syscall(number, words[0], words[1], words[2], words[3], words[4], words[5]);
}
