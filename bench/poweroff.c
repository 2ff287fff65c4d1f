/* The floor of a guest: an init that powers off; with an argument of the kernel's command line it
 * first runs /stress. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

int main(int argc, char** argv) {
  puts("bare: init");
  fflush(stdout);
  if (argc > 1 && strncmp(argv[1], "bytes=", 6) == 0) {
    // As the scenario has it: else the kernel refuses what can obviously not be had.
    mkdir("/proc", 0755);
    mount("proc", "/proc", "proc", 0, NULL);
    FILE* overcommit = fopen("/proc/sys/vm/overcommit_memory", "w");
    if (overcommit == NULL || fputs("1", overcommit) < 0 || fclose(overcommit) != 0) {
      puts("bare: no vm.overcommit_memory");
    }
    const pid_t child = fork();
    if (child == 0) {
      execl("/stress", "stress", "--anon", argv[1] + 6, "--hold", "forever", (char*)NULL);
      _exit(127);
    }
    int status = 0;
    waitpid(child, &status, 0);
    printf("bare: signal %d\n", WIFSIGNALED(status) ? WTERMSIG(status) : 0);
    fflush(stdout);
  }
  reboot(RB_POWER_OFF);
  return 1;
}
