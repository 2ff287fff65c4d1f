// SPDX-License-Identifier: MIT
#include "spawn.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <memory>

#ifndef CLONE_PIDFD
#define CLONE_PIDFD 0x00001000
#endif
#ifndef CLONE_INTO_CGROUP
#define CLONE_INTO_CGROUP 0x200000000ULL
#endif
#ifndef CLOSE_RANGE_CLOEXEC
#define CLOSE_RANGE_CLOEXEC (1U << 2)
#endif

namespace oomlab {
namespace {

constexpr size_t kStackSize = 64 << 10;
constexpr size_t kSigsetSize = 8;
constexpr uint32_t kMaskBits = 1024;

using Mask = std::vector<unsigned long>;

Mask ToMask(const std::vector<uint32_t>& bits) {
  constexpr uint32_t kWord = 8 * sizeof(unsigned long);
  Mask mask(kMaskBits / kWord);
  for (uint32_t bit : bits) mask.at(bit / kWord) |= 1UL << (bit % kWord);
  return mask;
}

std::vector<char*> Pointers(const std::vector<std::string>& texts) {
  std::vector<char*> pointers;
  for (const std::string& text : texts) pointers.push_back(const_cast<char*>(text.c_str()));
  pointers.push_back(nullptr);
  return pointers;
}

// Everything the child needs, made before it exists: it shares our memory and must not allocate.
struct ChildPlan {
  const SpawnRequest* request;
  std::vector<char*> argv;
  std::vector<char*> envp;
  Mask nodes;
  Mask cpus;
  bool join_cgroup_fd;
  pid_t parent;
  // Written by the child, read once it has gone through exec or died.
  volatile int error = 0;
  const char* volatile step = nullptr;
  const char* volatile path = nullptr;
};

[[noreturn]] void Give(ChildPlan* plan, const char* step, const char* path = nullptr) {
  plan->error = errno;
  plan->step = step;
  plan->path = path;
  syscall(SYS_exit_group, 127);
  __builtin_unreachable();
}

bool WriteAt(int dir, const char* path, const char* text, size_t size) {
  const int fd = openat(dir, path, O_WRONLY | O_CLOEXEC);
  if (fd < 0) return false;
  const bool ok = write(fd, text, size) == static_cast<ssize_t>(size);
  const int error = errno;
  close(fd);
  errno = error;
  return ok;
}

// close_range is of 5.9 and its CLOEXEC flag of 5.11; before that the table is walked.
void CloseOnExecFrom(int first) {
  if (syscall(SYS_close_range, first, ~0U, CLOSE_RANGE_CLOEXEC) == 0) return;
  const int dir = open("/proc/self/fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (dir < 0) return;
  alignas(dirent64) char buffer[4096];
  long got;
  while ((got = syscall(SYS_getdents64, dir, buffer, sizeof buffer)) > 0) {
    for (long at = 0; at < got;) {
      const auto* entry = reinterpret_cast<const dirent64*>(buffer + at);
      int fd = 0;
      for (const char* c = entry->d_name; *c >= '0' && *c <= '9'; ++c) fd = fd * 10 + (*c - '0');
      if (entry->d_name[0] != '.' && fd >= first) fcntl(fd, F_SETFD, FD_CLOEXEC);
      at += entry->d_reclen;
    }
  }
  close(dir);
}

// Signal handlers would run in our memory, and ignored signals would stay ignored through exec.
void ResetSignals() {
  struct sigaction standard = {};
  standard.sa_handler = SIG_DFL;
  for (int signal = 1; signal <= SIGRTMAX; ++signal) sigaction(signal, &standard, nullptr);
  const uint64_t none = 0;
  syscall(SYS_rt_sigprocmask, SIG_SETMASK, &none, nullptr, kSigsetSize);
}

void PlaceStdio(ChildPlan* plan) {
  const std::vector<int>& stdio = plan->request->stdio;
  const int count = static_cast<int>(stdio.size());
  // First out of the way of the numbers they are to get, then into place.
  int moved[64];
  for (int i = 0; i < count; ++i) {
    const int wanted = stdio[static_cast<size_t>(i)];
    const int from = wanted < 0 ? open("/dev/null", O_RDWR | O_CLOEXEC) : wanted;
    if (from < 0) Give(plan, "open", "/dev/null");
    moved[i] = fcntl(from, F_DUPFD_CLOEXEC, count);
    if (moved[i] < 0) Give(plan, "dup");
  }
  for (int i = 0; i < count; ++i) {
    if (dup2(moved[i], i) < 0) Give(plan, "dup2");
  }
  CloseOnExecFrom(count);
}

// Only raw system calls change identity: libc's wrappers would change all threads of the parent.
void ChangeUser(ChildPlan* plan) {
  const SpawnRequest& request = *plan->request;
  if (!request.uid && !request.gid) return;
  if (syscall(SYS_setgroups, 0, nullptr) != 0 && errno != EPERM) Give(plan, "setgroups");
  if (request.gid && syscall(SYS_setresgid, *request.gid, *request.gid, *request.gid) != 0) {
    Give(plan, "setgid");
  }
  if (request.uid && syscall(SYS_setresuid, *request.uid, *request.uid, *request.uid) != 0) {
    Give(plan, "setuid");
  }
}

int ChildMain(void* argument) {
  auto* plan = static_cast<ChildPlan*>(argument);
  const SpawnRequest& request = *plan->request;
  ResetSignals();
  if (request.cwd && chdir(request.cwd->c_str()) != 0) Give(plan, "chdir", request.cwd->c_str());
  if (plan->join_cgroup_fd && !WriteAt(request.cgroup_fd, "cgroup.procs", "0", 1)) {
    Give(plan, "cgroup.procs");
  }
  for (const std::string& path : request.cgroup_procs) {
    if (!WriteAt(AT_FDCWD, path.c_str(), "0", 1)) Give(plan, "cgroup.procs", path.c_str());
  }
  if (request.oom_score_adj) {
    Text value;
    value << *request.oom_score_adj;
    if (!WriteAt(AT_FDCWD, "/proc/self/oom_score_adj", value.c_str(), value.size())) {
      Give(plan, "oom_score_adj", "/proc/self/oom_score_adj");
    }
  }
  for (const auto& [resource, value] : request.rlimits) {
    const uint64_t limit[2] = {value, value};
    if (syscall(SYS_prlimit64, 0, resource, limit, nullptr) != 0) Give(plan, "setrlimit");
  }
  if (request.mempolicy >= 0 &&
      syscall(SYS_set_mempolicy, request.mempolicy, plan->nodes.data(), kMaskBits) != 0) {
    Give(plan, "set_mempolicy");
  }
  if (!request.cpus.empty() &&
      syscall(SYS_sched_setaffinity, 0, kMaskBits / 8, plan->cpus.data()) < 0) {
    Give(plan, "sched_setaffinity");
  }
  ChangeUser(plan);
  PlaceStdio(plan);
  if (request.setsid && syscall(SYS_setsid) < 0) Give(plan, "setsid");
  if (request.pdeathsig > 0) {
    if (prctl(PR_SET_PDEATHSIG, request.pdeathsig) != 0) Give(plan, "prctl");
    // It may have died before it was asked to say so.
    if (syscall(SYS_getppid) != plan->parent) syscall(SYS_exit_group, 128 + request.pdeathsig);
  }
  execve(request.file.c_str(), plan->argv.data(), plan->envp.data());
  Give(plan, "exec", request.file.c_str());
}

// clone3 as of 5.7: linux/sched.h of older systems ends before `cgroup`.
struct Clone3Arguments {
  alignas(8) uint64_t flags, pidfd, child_tid, parent_tid, exit_signal, stack,
      stack_size, tls, set_tid, set_tid_size, cgroup;
};

#ifndef SYS_clone3
#define SYS_clone3 435
#endif

// libc wraps clone but not clone3, and a child on a stack of its own cannot return from syscall().
long Clone3(Clone3Arguments* arguments, int (*function)(void*), void* argument) {
#if defined(__x86_64__)
  long result;
  register int (*r8)(void*) __asm__("r8") = function;
  register void* r9 __asm__("r9") = argument;
  __asm__ volatile(
      "syscall\n\t"
      "test %%rax, %%rax\n\t"
      "jnz 1f\n\t"
      "xor %%ebp, %%ebp\n\t"
      "mov %%r9, %%rdi\n\t"
      "call *%%r8\n\t"
      "hlt\n"
      "1:"
      : "=a"(result)
      : "a"(SYS_clone3), "D"(arguments), "S"(sizeof *arguments), "r"(r8), "r"(r9)
      : "rcx", "r11", "memory", "cc");
  return result;
#elif defined(__aarch64__)
  register long x8 __asm__("x8") = SYS_clone3;
  register long x0 __asm__("x0") = reinterpret_cast<long>(arguments);
  register long x1 __asm__("x1") = sizeof *arguments;
  register int (*x2)(void*) __asm__("x2") = function;
  register void* x3 __asm__("x3") = argument;
  __asm__ volatile(
      "svc #0\n\t"
      "cbnz x0, 1f\n\t"
      "mov x29, #0\n\t"
      "mov x0, x3\n\t"
      "blr x2\n\t"
      "brk #0\n"
      "1:"
      : "+r"(x0)
      : "r"(x8), "r"(x1), "r"(x2), "r"(x3)
      : "memory", "cc");
  return x0;
#else
  (void)arguments, (void)function, (void)argument;
  return -ENOSYS;
#endif
}

// Seccomp filters of containers, and kernels before 5.7, refuse clone3 in these ways.
bool Clone3IsMissing(long error) {
  return error == ENOSYS || error == EPERM || error == EINVAL || error == E2BIG;
}

}  // namespace

SpawnResult Spawn(const SpawnRequest& request) {
  SpawnResult result;
  ChildPlan plan = {};
  plan.request = &request;
  plan.argv = Pointers(request.args);
  plan.envp = Pointers(request.env);
  plan.nodes = ToMask(request.nodes);
  plan.cpus = ToMask(request.cpus);
  plan.parent = getpid();

  // From the heap: what sanitizers know of the child's frames ends with the block.
  const std::unique_ptr<char[]> stack(new char[kStackSize]);
  const uint64_t all = ~0ULL;
  uint64_t before = 0;
  syscall(SYS_rt_sigprocmask, SIG_SETMASK, &all, &before, kSigsetSize);

  int pidfd = -1;
  long pid = -ENOSYS;
  if (request.cgroup_fd >= 0) {
    Clone3Arguments arguments = {};
    arguments.flags = CLONE_VM | CLONE_VFORK | CLONE_PIDFD | CLONE_INTO_CGROUP;
    arguments.pidfd = reinterpret_cast<uint64_t>(&pidfd);
    arguments.exit_signal = SIGCHLD;
    arguments.stack = reinterpret_cast<uint64_t>(stack.get());
    arguments.stack_size = kStackSize;
    arguments.cgroup = static_cast<uint64_t>(request.cgroup_fd);
    pid = Clone3(&arguments, ChildMain, &plan);
  }
  if (pid < 0 && Clone3IsMissing(-pid)) {
    plan.join_cgroup_fd = request.cgroup_fd >= 0;
    char* top = stack.get() + kStackSize;
    constexpr int kFlags = CLONE_VM | CLONE_VFORK | SIGCHLD;
    pid = clone(ChildMain, top, kFlags | CLONE_PIDFD, &plan, &pidfd);
    if (pid < 0 && errno == EINVAL) pid = clone(ChildMain, top, kFlags, &plan);
    if (pid < 0) pid = -errno;
  }

  syscall(SYS_rt_sigprocmask, SIG_SETMASK, &before, nullptr, kSigsetSize);

  if (pid < 0) {
    result.failure = {"clone", static_cast<int>(-pid)};
    return result;
  }
  if (pidfd < 0) pidfd = static_cast<int>(syscall(SYS_pidfd_open, pid, 0));
  if (plan.step) {
    result.failure = {plan.step, plan.error};
    if (plan.path) result.path = plan.path;
    waitpid(static_cast<pid_t>(pid), nullptr, __WALL);
    if (pidfd >= 0) close(pidfd);
    return result;
  }
  result.pid = static_cast<pid_t>(pid);
  result.pidfd = pidfd;
  return result;
}

}  // namespace oomlab
