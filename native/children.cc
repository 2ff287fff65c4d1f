// SPDX-License-Identifier: MIT
#include "children.h"

#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <fstream>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "base.h"
#include "spawn.h"
#include "values.h"
#include "watch.h"

namespace oomlab {
namespace {

// Spawned and not yet reaped, in all environments of the process. Holding the lock while a child is
// signalled or reaped keeps its pid and pidfd from meaning somebody else in between.
std::mutex children_mutex;
std::map<pid_t, int> children;

struct Exit {
  pid_t pid;
  int code = -1;
  int signal = -1;
  bool core_dumped = false;
  uint64_t user_us = 0;
  uint64_t system_us = 0;
};

uint64_t Microseconds(const timeval& time) {
  return static_cast<uint64_t>(time.tv_sec) * 1000000 + static_cast<uint64_t>(time.tv_usec);
}

// libc's waitid hides the rusage that the system call gives.
int Wait(pid_t pid, int flags, Exit* exit) {
  siginfo_t info = {};
  rusage usage = {};
  long result;
  do {
    result = syscall(SYS_waitid, P_PID, pid, &info, WEXITED | flags, &usage);
  } while (result != 0 && errno == EINTR);
  if (result != 0) return errno;
  if (info.si_pid == 0) return EAGAIN;
  exit->pid = pid;
  if (info.si_code == CLD_EXITED) {
    exit->code = info.si_status;
  } else {
    exit->signal = info.si_status;
  }
  exit->core_dumped = info.si_code == CLD_DUMPED;
  exit->user_us = Microseconds(usage.ru_utime);
  exit->system_us = Microseconds(usage.ru_stime);
  return 0;
}

Napi::Object ExitObject(Napi::Env env, const Exit& exit) {
  auto number = [env](int value) -> Napi::Value {
    if (value < 0) return env.Null();
    return Napi::Number::New(env, value);
  };
  Napi::Object result = Napi::Object::New(env);
  result.Set("pid", exit.pid);
  result.Set("code", number(exit.code));
  result.Set("signal", number(exit.signal));
  result.Set("coreDumped", exit.core_dumped);
  result.Set("userUs", static_cast<double>(exit.user_us));
  result.Set("systemUs", static_cast<double>(exit.system_us));
  return result;
}

SpawnRequest ToRequest(Napi::Object options) {
  SpawnRequest request;
  request.file = ToText(options.Get("file"), "file");
  request.args = ToList(options.Get("args"), "args", ToText);
  request.env = ToList(options.Get("env"), "env", ToText);
  request.stdio = ToList(options.Get("stdio"), "stdio", ToInt);
  if (request.stdio.size() > 64) Reject(options.Env(), "stdio", "at most 64 descriptors");
  if (Has(options, "cwd")) request.cwd = ToText(options.Get("cwd"), "cwd");
  if (Has(options, "cgroupFd")) request.cgroup_fd = ToInt(options.Get("cgroupFd"), "cgroupFd");
  if (Has(options, "cgroupProcs")) {
    request.cgroup_procs = ToList(options.Get("cgroupProcs"), "cgroupProcs", ToText);
  }
  if (Has(options, "oomScoreAdj")) {
    request.oom_score_adj = ToInt(options.Get("oomScoreAdj"), "oomScoreAdj");
  }
  if (Has(options, "rlimits")) {
    request.rlimits = ToList(options.Get("rlimits"), "rlimits", [](auto value, auto what) {
      const Napi::Object entry = ToObject(value, what);
      const std::string name = ToText(entry.Get("resource"), what + ".resource");
      const double limit = ToNumber(entry.Get("value"), what + ".value");
      const int resource = RlimitByName(name.c_str());
      if (resource < 0) Reject(value.Env(), what + ".resource", "a name as in getrlimit(2)");
      if (!(limit >= 0)) Reject(value.Env(), what + ".value", "a non-negative number");
      return std::pair<int, uint64_t>(
          resource, limit < 18446744073709549568.0 ? static_cast<uint64_t>(limit) : RLIM_INFINITY);
    });
  }
  constexpr uint32_t kBits = 1024;
  auto bit = [](Napi::Value value, const std::string& what) {
    const uint32_t number = ToUnsigned(value, what);
    if (number >= kBits) Reject(value.Env(), what, "below 1024");
    return number;
  };
  if (Has(options, "mempolicy")) {
    const Napi::Object policy = ToObject(options.Get("mempolicy"), "mempolicy");
    const std::string mode = ToText(policy.Get("mode"), "mempolicy.mode");
    // MPOL_PREFERRED, MPOL_BIND, MPOL_INTERLEAVE
    request.mempolicy = mode == "preferred"    ? 1
                        : mode == "bind"       ? 2
                        : mode == "interleave" ? 3
                                               : -1;
    if (request.mempolicy < 0) {
      Reject(options.Env(), "mempolicy.mode", "bind, preferred or interleave");
    }
    request.nodes = ToList(policy.Get("nodes"), "mempolicy.nodes", bit);
  }
  if (Has(options, "cpus")) request.cpus = ToList(options.Get("cpus"), "cpus", bit);
  if (Has(options, "uid")) request.uid = ToUnsigned(options.Get("uid"), "uid");
  if (Has(options, "gid")) request.gid = ToUnsigned(options.Get("gid"), "gid");
  if (Has(options, "setsid")) {
    const Napi::Value setsid = options.Get("setsid");
    if (!setsid.IsBoolean()) Reject(options.Env(), "setsid", "a boolean");
    request.setsid = setsid.As<Napi::Boolean>().Value();
  }
  if (Has(options, "pdeathsig")) request.pdeathsig = ToInt(options.Get("pdeathsig"), "pdeathsig");
  return request;
}

struct Child {
  pid_t pid;
  int pidfd;
};

Child ToChild(Napi::Value value) {
  const Napi::Object object = ToObject(value, "child");
  return {ToInt(object.Get("pid"), "child.pid"), ToInt(object.Get("pidfd"), "child.pidfd")};
}

Exit Reap(const Child& child, int flags, int* error) {
  Exit exit = {};
  exit.pid = child.pid;
  std::lock_guard<std::mutex> lock(children_mutex);
  *error = Wait(child.pid, flags, &exit);
  const auto found = children.find(child.pid);
  if (*error != EAGAIN && found != children.end()) {
    if (found->second >= 0) close(found->second);
    children.erase(found);
  }
  return exit;
}

// Where the kernel has no pidfds a thread waits instead.
void WaitInThread(const Napi::CallbackInfo& info, const Child& child, Napi::Function callback) {
  auto done = Napi::ThreadSafeFunction::New(info.Env(), callback, "oomlab.onExit", 0, 1);
  std::thread([child, done]() mutable {
    siginfo_t ended;
    // WNOWAIT: the lock must be held while it is reaped, but not while it lives.
    while (waitid(P_PID, static_cast<id_t>(child.pid), &ended, WEXITED | WNOWAIT) != 0 &&
           errno == EINTR) {
    }
    int error;
    const Exit exit = Reap(child, WNOHANG, &error);
    done.BlockingCall(
        [exit](Napi::Env env, Napi::Function callback) { callback.Call({ExitObject(env, exit)}); });
    done.Release();
  }).detach();
}

// Every process whose parent we are, zombies too, where the kernel keeps no list of them.
std::vector<pid_t> SearchChildren() {
  std::vector<pid_t> pids;
  DIR* processes = opendir("/proc");
  if (!processes) return pids;
  const std::string wanted = "PPid:\t" + std::to_string(getpid());
  while (const dirent* process = readdir(processes)) {
    const pid_t pid = atoi(process->d_name);
    if (pid <= 0) continue;
    std::ifstream status(std::string("/proc/") + process->d_name + "/status");
    for (std::string line; std::getline(status, line);) {
      if (line == wanted) pids.push_back(pid);
    }
  }
  closedir(processes);
  return pids;
}

// Children of any thread of ours, zombies too. waitid(P_ALL) would stop at the first that is not
// to be reaped here.
std::vector<pid_t> AllChildren() {
  std::vector<pid_t> pids;
  DIR* threads = opendir("/proc/self/task");
  if (!threads) return pids;
  bool listed = false;
  while (const dirent* thread = readdir(threads)) {
    if (thread->d_name[0] == '.') continue;
    std::ifstream list(std::string("/proc/self/task/") + thread->d_name + "/children");
    listed |= list.is_open();
    for (pid_t pid; list >> pid;) pids.push_back(pid);
  }
  closedir(threads);
  return listed ? pids : SearchChildren();
}

}  // namespace

Napi::Value SpawnChild(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  const SpawnRequest request = ToRequest(ToObject(info[0], "options"));
  SpawnResult result;
  {
    // Held across the fork: whoever reaps orphans must not see a child of ours that is not listed.
    std::lock_guard<std::mutex> lock(children_mutex);
    result = Spawn(request);
    if (!result.failure) children[result.pid] = result.pidfd;
  }
  if (result.failure) {
    std::string prefix = "spawn " + request.file + ": ";
    if (!result.path.empty() && result.path != request.file) prefix += result.path + ": ";
    throw SystemError(env, prefix, result.failure.op, result.failure.error,
                      result.path.empty() ? request.file : result.path);
  }
  Napi::Object child = Napi::Object::New(env);
  child.Set("pid", result.pid);
  child.Set("pidfd", result.pidfd);
  return child;
}

Napi::Value Signal(const Napi::CallbackInfo& info) {
  const Child child = ToChild(info[0]);
  const int signal = ToInt(info[1], "signal");
  std::lock_guard<std::mutex> lock(children_mutex);
  const auto found = children.find(child.pid);
  if (found == children.end()) return Napi::Boolean::New(info.Env(), false);
  const long result = found->second >= 0
                          ? syscall(SYS_pidfd_send_signal, found->second, signal, nullptr, 0)
                          : kill(child.pid, signal);
  if (result == 0) return Napi::Boolean::New(info.Env(), true);
  if (errno == ESRCH) return Napi::Boolean::New(info.Env(), false);
  throw SystemError(info.Env(), "", "pidfd_send_signal", errno);
}

Napi::Value OnExit(const Napi::CallbackInfo& info) {
  const Child child = ToChild(info[0]);
  Napi::Function callback = ToFunction(info[1], "callback");
  {
    std::lock_guard<std::mutex> lock(children_mutex);
    const auto found = children.find(child.pid);
    if (found == children.end() || (child.pidfd >= 0 && found->second != child.pidfd)) {
      Reject(info.Env(), "child", "one that spawn returned and that has not been reaped");
    }
  }
  if (child.pidfd < 0) {
    WaitInThread(info, child, callback);
  } else {
    WatchOnce(info, child.pidfd, "oomlab.onExit", callback, [child](Napi::Env env) -> Napi::Value {
      int error;
      const Exit exit = Reap(child, WNOHANG, &error);
      if (error == EAGAIN) return {};
      return ExitObject(env, exit);
    });
  }
  return info.Env().Undefined();
}

Napi::Value ReapOrphans(const Napi::CallbackInfo& info) {
  std::vector<int> except;
  if (!info[0].IsUndefined()) except = ToList(info[0], "except", ToInt);
  Napi::Array ended = Napi::Array::New(info.Env());
  std::lock_guard<std::mutex> lock(children_mutex);
  for (pid_t pid : AllChildren()) {
    if (children.count(pid) || std::find(except.begin(), except.end(), pid) != except.end()) {
      continue;
    }
    Exit exit = {};
    if (Wait(pid, WNOHANG, &exit) == 0) ended.Set(ended.Length(), ExitObject(info.Env(), exit));
  }
  return ended;
}

}  // namespace oomlab
