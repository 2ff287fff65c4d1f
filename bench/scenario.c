// The floor of running a scenario: scenario VERSION PARENT TIMES. Each time: mkdir, limit 64 MiB
// (no swap), fork, the child enters the cgroup, touches 96 MiB and is killed; the counters and
// /dev/kmsg are read; rmdir. Every kill is verified by all three: exit status, counter, kernel log.
// Prints one JSON object.
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { kLimit = 64 << 20, kTouch = 96 << 20 };

static void fail(const char* what, const char* on) {
  fprintf(stderr, "scenario: %s %s: %s\n", what, on, strerror(errno));
  exit(1);
}

static void put(const char* folder, const char* file, const char* value, int optional) {
  char path[4096];
  snprintf(path, sizeof path, "%s/%s", folder, file);
  int fd = open(path, O_WRONLY);
  if (fd < 0 && optional && errno == ENOENT) return;
  if (fd < 0 || write(fd, value, strlen(value)) < 0) fail("write", path);
  close(fd);
}

static long long get(const char* folder, const char* file, const char* key) {
  char path[4096], text[4096];
  snprintf(path, sizeof path, "%s/%s", folder, file);
  int fd = open(path, O_RDONLY);
  if (fd < 0 && errno == ENOENT) return 0;
  if (fd < 0) fail("open", path);
  ssize_t length = read(fd, text, sizeof text - 1);
  if (length < 0) fail("read", path);
  close(fd);
  text[length] = 0;
  if (!key) return atoll(text);
  size_t size = strlen(key);
  for (char* line = text; line; line = strchr(line, '\n')) {
    if (*line == '\n') ++line;
    if (strncmp(line, key, size) == 0 && line[size] == ' ') return atoll(line + size);
  }
  return -1;
}

static double now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return time.tv_sec * 1e3 + time.tv_nsec / 1e6;
}

static void press(const char* folder) {
  put(folder, "cgroup.procs", "0", 0);
  volatile char* memory =
      mmap(0, kTouch, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) _exit(1);
  for (size_t at = 0; at < kTouch; at += 4096) memory[at] = 1;
  _exit(0);
}

static int killed_in_log(int kmsg, pid_t pid) {
  char record[8192], wanted[64];
  snprintf(wanted, sizeof wanted, "Killed process %d ", pid);
  int found = 0;
  for (;;) {
    ssize_t length = read(kmsg, record, sizeof record - 1);
    if (length < 0 && errno == EPIPE) continue;
    if (length <= 0) return found;
    record[length] = 0;
    if (strstr(record, wanted)) found = 1;
  }
}

int main(int argc, char** argv) {
  if (argc != 4) return 2;
  int v1 = strcmp(argv[1], "1") == 0;
  int times = atoi(argv[3]);
  char folder[2048], limit[32];
  snprintf(folder, sizeof folder, "%s/floor-%d", argv[2], getpid());
  snprintf(limit, sizeof limit, "%d", kLimit);
  int kmsg = open("/dev/kmsg", O_RDONLY | O_NONBLOCK);
  if (kmsg < 0) fail("open", "/dev/kmsg");
  if (lseek(kmsg, 0, SEEK_END) < 0) fail("seek", "/dev/kmsg");
  double start = now();
  for (int i = 0; i < times; ++i) {
    if (mkdir(folder, 0755) < 0) fail("mkdir", folder);
    if (v1) {
      put(folder, "memory.limit_in_bytes", limit, 0);
      put(folder, "memory.memsw.limit_in_bytes", limit, 1);
    } else {
      put(folder, "memory.max", limit, 0);
      put(folder, "memory.swap.max", "0", 1);
    }
    pid_t child = fork();
    if (child < 0) fail("fork", "");
    if (child == 0) press(folder);
    int status;
    if (waitpid(child, &status, 0) != child) fail("wait", "");
    int log = killed_in_log(kmsg, child);
    long long kills = get(folder, v1 ? "memory.oom_control" : "memory.events", "oom_kill");
    // Newer kernels no longer count failures on v1, but know the peak.
    long long hits = v1 ? get(folder, "memory.max_usage_in_bytes", 0) >= kLimit - (1 << 20)
                        : get(folder, "memory.events", "max");
    int signal = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
    if (rmdir(folder) < 0) fail("rmdir", folder);
    if (signal != SIGKILL || kills != 1 || hits < 1 || !log) {
      fprintf(stderr,
              "scenario: not the OOM kill expected: signal %d, oom_kill %lld, "
              "log %d\n",
              signal, kills, log);
      return 1;
    }
  }
  printf("{\"ms\":%.3f,\"times\":%d}\n", now() - start, times);
  return 0;
}
