// SPDX-License-Identifier: MIT
// Process 1 of a VM's initramfs: loads modules, mounts the image and all that a program expects,
// runs the image's program (etc/program) in it, powers off. One process: under emulation a shell
// and its commands take a sixth of a boot.
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <sched.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base.h"

namespace {

using oomlab::PathText;
using oomlab::Text;

void Say(Text text) {
  text << '\n';
  // The console; there is nobody else to tell where it fails.
  if (write(STDOUT_FILENO, text.c_str(), text.size()) < 0) return;
}

void Complain(const char* what, const char* which) {
  Say(Text() << "oomlab-init: " << what << ' ' << which << ": " << oomlab::ErrnoName(errno));
}

[[noreturn]] void PowerOff() {
  sync();
  reboot(RB_POWER_OFF);
  for (;;) pause();
}

bool Mount(const char* source, const char* target, const char* type, unsigned long flags,
           const char* options) {
  if (mount(source, target, type, flags, options) == 0) return true;
  Complain("no mount at", target);
  return false;
}

// Words of a text, cut in place; nullptr after the last.
char* Word(char** rest) { return strtok_r(nullptr, " \n", rest); }

void LoadModules() {
  static char list[4096];
  if (!oomlab::ReadFile("/modules/early", list, sizeof list)) return;
  char* rest = list;
  while (const char* name = Word(&rest)) {
    const PathText path = PathText() << "/modules/" << name;
    const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (fd < 0 || (syscall(SYS_finit_module, fd, "", 0) != 0 && errno != EEXIST)) {
      Complain("no module", name);
    }
    if (fd >= 0) close(fd);
  }
}

// `ifconfig lo up`
void BringUpLoopback() {
  const int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  ifreq request = {};
  strcpy(request.ifr_name, "lo");
  if (fd < 0 || ioctl(fd, SIOCGIFFLAGS, &request) != 0) return Complain("no interface", "lo");
  request.ifr_flags |= IFF_UP;
  if (ioctl(fd, SIOCSIFFLAGS, &request) != 0) Complain("no interface", "lo");
  close(fd);
}

// Where `oomlab.cgroup2=OPTIONS` asks for it. An option that this kernel lacks is told by the
// agent.
void MountCgroup2() {
  static char line[4096];
  if (!oomlab::ReadFile("/image/proc/cmdline", line, sizeof line)) return;
  constexpr char key[] = "oomlab.cgroup2=";
  char* rest = line;
  while (const char* word = Word(&rest)) {
    if (strncmp(word, key, sizeof key - 1) == 0) {
      if (mount("none", "/image/sys/fs/cgroup", "cgroup2", 0, word + sizeof key - 1) != 0) continue;
      oomlab::WriteFile("/image/sys/fs/cgroup/cgroup.subtree_control", "+memory", 7);
      mkdir("/image/sys/fs/cgroup/agent", 0755);
    }
  }
}

void MountAll() {
  Mount("dev", "/dev", "devtmpfs", 0, nullptr);
  Mount("sys", "/sys", "sysfs", 0, nullptr);
  LoadModules();
  // Programs are read whole soon: fewer, bigger requests.
  oomlab::WriteFile("/sys/block/vda/queue/read_ahead_kb", "512", 3);
  if (!Mount("/dev/vda", "/image", "erofs", MS_RDONLY, nullptr)) PowerOff();
  Mount("/dev", "/image/dev", nullptr, MS_MOVE, nullptr);
  Mount("/sys", "/image/sys", nullptr, MS_MOVE, nullptr);
  Mount("proc", "/image/proc", "proc", 0, nullptr);
  Mount("run", "/image/run", "tmpfs", 0, "mode=755");
  Mount("tmp", "/image/tmp", "tmpfs", 0, "mode=1777");
  const char* const folders[] = {"/image/dev/shm", "/image/dev/pts", "/image/run/modules"};
  for (const char* path : folders) {
    if (mkdir(path, 0755) != 0 && errno != EEXIST) Complain("no folder", path);
  }
  Mount("shm", "/image/dev/shm", "tmpfs", 0, "mode=1777");
  Mount("/modules", "/image/run/modules", nullptr, MS_BIND, nullptr);
  BringUpLoopback();
  MountCgroup2();
}

// The agent's channel: /dev/vport<n>p1 inside the image.
PathText Channel() {
  PathText path;
  DIR* const folder = opendir("/image/dev");
  if (folder == nullptr) return path;
  while (const dirent* entry = readdir(folder)) {
    const char* const name = entry->d_name;
    const size_t length = strlen(name);
    if (strncmp(name, "vport", 5) == 0 && strcmp(name + length - 2, "p1") == 0) {
      path << "/dev/" << name;
      break;
    }
  }
  closedir(folder);
  return path;
}

[[noreturn]] void Run(char* program, const PathText& channel) {
  oomlab::WriteFile("/image/proc/self/oom_score_adj", "-1000", 5);
  // From its first page on: its memory.min would not protect what it read before.
  oomlab::WriteFile("/image/sys/fs/cgroup/agent/cgroup.procs", "0", 1);
  // A real-time task may take of the node's last pages (mm/page_alloc.c gfp_to_alloc_flags):
  // whoever presses runs out of them first. What it starts is none. (musl has no
  // sched_setscheduler.)
  sched_param lowest = {};
  lowest.sched_priority = 1;
  if (syscall(SYS_sched_setscheduler, 0, SCHED_RR | SCHED_RESET_ON_FORK, &lowest) != 0) {
    Complain("no real-time priority", "agent");
  }
  const char* argv[16];
  size_t count = 0;
  char* rest = program;
  while (count < 14 && (argv[count] = Word(&rest)) != nullptr) count++;
  argv[count++] = channel.c_str();
  argv[count] = nullptr;
  const char* const environment[] = {"PATH=/usr/local/bin:/usr/bin:/bin:/sbin", "HOME=/tmp",
                                     "TERM=linux", nullptr};
  if (chroot("/image") == 0 && chdir("/") == 0) {
    execve(argv[0], const_cast<char* const*>(argv), const_cast<char* const*>(environment));
  }
  Complain("no program", argv[0]);
  _exit(127);
}

}  // namespace

int main() {
  Say(Text() << "oomlab-init: the kernel is up");
  MountAll();
  static char program[4096];
  if (!oomlab::ReadFile("/image/etc/program", program, sizeof program)) {
    Complain("no file", "/etc/program");
    PowerOff();
  }
  const PathText channel = Channel();
  const pid_t child = fork();
  if (child == 0) Run(program, channel);
  // Of all that comes to process 1 only the program's end matters.
  int status = 0;
  for (pid_t ended = 0; ended != child && (ended >= 0 || errno == EINTR);) ended = wait(&status);
  if (status != 0) {
    Say(Text() << "oomlab-init: the program ended with "
               << (WIFEXITED(status) ? "status " : "signal ")
               << (WIFEXITED(status) ? WEXITSTATUS(status) : WTERMSIG(status)));
  }
  PowerOff();
}
