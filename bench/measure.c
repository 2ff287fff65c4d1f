// measure PROCS|- PROGRAM [ARG]...: runs a program inside a cgroup and tells, as JSON, how long it
// took from just before exec to its end, how it ended, and its rusage. PROCS is the cgroup.procs
// that the child enters before its time begins.
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static long long now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return time.tv_sec * 1000000000LL + time.tv_nsec;
}

int main(int argc, char** argv) {
  if (argc < 3) return 2;
  // vfork: the child has no memory of its own that exec would have to tear down.
  volatile long long start = 0;
  pid_t child = vfork();
  if (child < 0) return 2;
  if (child == 0) {
    if (strcmp(argv[1], "-") != 0) {
      int procs = open(argv[1], O_WRONLY);
      if (procs < 0 || write(procs, "0", 1) != 1) _exit(125);
      close(procs);
    }
    int null = open("/dev/null", O_RDWR);
    dup2(null, 0);
    dup2(null, 1);
    dup2(null, 2);
    close(null);
    start = now();
    execv(argv[2], argv + 2);
    _exit(126);
  }
  int status;
  struct rusage usage;
  if (wait4(child, &status, 0, &usage) != child) return 2;
  long long end = now();
  printf(
      "{\"ns\":%lld,\"code\":%d,\"signal\":%d,\"maxRssKb\":%ld,\"cpuUs\":%"
      "ld}\n",
      end - start, WIFEXITED(status) ? WEXITSTATUS(status) : -1,
      WIFSIGNALED(status) ? WTERMSIG(status) : 0, usage.ru_maxrss,
      (usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1000000L + usage.ru_utime.tv_usec +
          usage.ru_stime.tv_usec);
  return 0;
}
