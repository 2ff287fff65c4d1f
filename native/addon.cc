// SPDX-License-Identifier: MIT
// The Node-API addon. src/native.ts is the contract; options are made sense of there, not here.
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <napi.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <uv.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <limits>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <system_error>
#include <thread>
#include <unordered_set>
#include <vector>

#include "base.h"
#include "memory.h"
#include "spawn.h"
#include "survey.h"

namespace oomlab {
namespace {

// ---- errors and arguments

Napi::Error SystemError(Napi::Env env, const std::string& prefix, const char* syscall, int error,
                        const std::string& path = {}) {
  const char* code = ErrnoName(error);
  Napi::Error result =
      Napi::Error::New(env, prefix + syscall + ": " + code + ": " + strerror(error));
  result.Set("code", Napi::String::New(env, code));
  // Negative, as in the errors of Node's own modules.
  result.Set("errno", Napi::Number::New(env, -error));
  result.Set("syscall", Napi::String::New(env, syscall));
  if (!path.empty()) result.Set("path", Napi::String::New(env, path));
  return result;
}

[[noreturn]] void Reject(Napi::Env env, const std::string& what, const char* wanted) {
  throw Napi::TypeError::New(env, what + " must be " + wanted);
}

double ToNumber(Napi::Value value, const std::string& what) {
  if (!value.IsNumber()) Reject(value.Env(), what, "a number");
  return value.As<Napi::Number>().DoubleValue();
}

int ToInt(Napi::Value value, const std::string& what) {
  const double number = ToNumber(value, what);
  if (number != std::floor(number) || std::fabs(number) > std::numeric_limits<int>::max()) {
    Reject(value.Env(), what, "an integer");
  }
  return static_cast<int>(number);
}

uint32_t ToUnsigned(Napi::Value value, const std::string& what) {
  const double number = ToNumber(value, what);
  if (number != std::floor(number) || number < 0 || number > 4294967295.0) {
    Reject(value.Env(), what, "a non-negative integer");
  }
  return static_cast<uint32_t>(number);
}

std::string ToText(Napi::Value value, const std::string& what) {
  if (!value.IsString()) Reject(value.Env(), what, "a string");
  std::string text = value.As<Napi::String>().Utf8Value();
  // The kernel would silently stop at it.
  if (text.find('\0') != std::string::npos) Reject(value.Env(), what, "a string without NUL bytes");
  return text;
}

Napi::Object ToObject(Napi::Value value, const std::string& what) {
  if (!value.IsObject()) Reject(value.Env(), what, "an object");
  return value.As<Napi::Object>();
}

Napi::Function ToFunction(Napi::Value value, const std::string& what) {
  if (!value.IsFunction()) Reject(value.Env(), what, "a function");
  return value.As<Napi::Function>();
}

template <typename Convert>
auto ToList(Napi::Value value, const std::string& what, Convert convert) {
  if (!value.IsArray()) Reject(value.Env(), what, "an array");
  auto array = value.As<Napi::Array>();
  std::vector<decltype(convert(value, what))> list;
  for (uint32_t i = 0; i < array.Length(); ++i) {
    list.push_back(convert(array.Get(i), what + "[" + std::to_string(i) + "]"));
  }
  return list;
}

bool Has(const Napi::Object& object, const char* key) {
  const Napi::Value value = object.Get(key);
  return !value.IsUndefined() && !value.IsNull();
}

// ---- children

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

Napi::Object ToObject(Napi::Env env, const Exit& exit) {
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
  if (Has(options, "pdeathsig")) request.pdeathsig = ToInt(options.Get("pdeathsig"), "pdeathsig");
  return request;
}

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

struct Child {
  pid_t pid;
  int pidfd;
};

Child ToChild(Napi::Value value) {
  const Napi::Object object = ToObject(value, "child");
  return {ToInt(object.Get("pid"), "child.pid"), ToInt(object.Get("pidfd"), "child.pidfd")};
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

// ---- the event loop

// A descriptor watched on Node's loop. It deletes itself once libuv has let go of its handle.
struct Watch {
  uv_poll_t handle;
  struct Environment* environment;
  Napi::FunctionReference callback;
  std::unique_ptr<Napi::AsyncContext> context;
  Child child = {-1, -1};
  bool closing = false;
};

// What lives as long as one JavaScript environment: the main thread's or a worker thread's.
struct Environment {
  napi_env env;
  uv_loop_t* loop = nullptr;
  std::set<Watch*> watches;
  size_t open_handles = 0;
  napi_async_cleanup_hook_handle cleanup = nullptr;
  bool closing = false;
  // kmsg descriptors whose next record comes after a gap that has not been told yet.
  std::unordered_set<int> lost;
};

void FinishCleanup(Environment* environment) {
  if (!environment->closing || environment->open_handles > 0) return;
  napi_remove_async_cleanup_hook(environment->cleanup);
  delete environment;
}

void CloseWatch(Watch* watch) {
  if (watch->closing) return;
  watch->closing = true;
  watch->environment->watches.erase(watch);
  watch->callback.Reset();
  watch->context.reset();
  uv_poll_stop(&watch->handle);
  uv_close(reinterpret_cast<uv_handle_t*>(&watch->handle), [](uv_handle_t* handle) {
    auto* watch = static_cast<Watch*>(handle->data);
    Environment* environment = watch->environment;
    delete watch;
    --environment->open_handles;
    FinishCleanup(environment);
  });
}

void CleanUp(napi_async_cleanup_hook_handle, void* data) {
  auto* environment = static_cast<Environment*>(data);
  environment->closing = true;
  while (!environment->watches.empty()) CloseWatch(*environment->watches.begin());
  FinishCleanup(environment);
}

// A callback from libuv has no JavaScript below it: what it throws is an uncaught exception.
void Call(napi_env env, const Napi::FunctionReference& callback, napi_async_context context,
          size_t count, const napi_value* arguments) {
  napi_value global;
  napi_get_global(env, &global);
  const napi_status status =
      napi_make_callback(env, context, global, callback.Value(), count, arguments, nullptr);
  if (status != napi_pending_exception) return;
  napi_value error;
  if (napi_get_and_clear_last_exception(env, &error) == napi_ok) napi_fatal_exception(env, error);
}

Watch* StartWatch(const Napi::CallbackInfo& info, int fd, int events, Napi::Function callback,
                  const char* name, uv_poll_cb on_event) {
  auto* environment = static_cast<Environment*>(info.Data());
  auto* watch = new Watch;
  int error =
      environment->closing ? UV_ECANCELED : uv_poll_init(environment->loop, &watch->handle, fd);
  if (error != 0) {
    delete watch;
    throw SystemError(info.Env(), "", "poll", -error);
  }
  watch->handle.data = watch;
  watch->environment = environment;
  ++environment->open_handles;
  environment->watches.insert(watch);
  watch->callback = Napi::Persistent(callback);
  watch->context = std::make_unique<Napi::AsyncContext>(info.Env(), name);
  error = uv_poll_start(&watch->handle, events, on_event);
  if (error != 0) {
    CloseWatch(watch);
    throw SystemError(info.Env(), "", "poll", -error);
  }
  return watch;
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

void OnChildReadable(uv_poll_t* handle, int, int) {
  auto* watch = static_cast<Watch*>(handle->data);
  napi_env env = watch->environment->env;
  // Stopped before its descriptor is closed, so that the loop never polls a reused number.
  uv_poll_stop(handle);
  int error;
  const Exit exit = Reap(watch->child, WNOHANG, &error);
  if (error == EAGAIN) {
    uv_poll_start(handle, UV_READABLE, OnChildReadable);
    return;
  }
  Napi::HandleScope scope(env);
  const napi_value argument = ToObject(env, exit);
  Call(env, watch->callback, *watch->context, 1, &argument);
  CloseWatch(watch);
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
        [exit](Napi::Env env, Napi::Function callback) { callback.Call({ToObject(env, exit)}); });
    done.Release();
  }).detach();
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
    StartWatch(info, child.pidfd, UV_READABLE, callback, "oomlab.onExit", OnChildReadable)->child =
        child;
  }
  return info.Env().Undefined();
}

void OnEvent(uv_poll_t* handle, int, int) {
  auto* watch = static_cast<Watch*>(handle->data);
  napi_env env = watch->environment->env;
  Napi::HandleScope scope(env);
  Call(env, watch->callback, *watch->context, 0, nullptr);
}

Napi::Value Poll(const Napi::CallbackInfo& info) {
  const int fd = ToInt(info[0], "fd");
  const std::string event = ToText(info[1], "event");
  Napi::Function callback = ToFunction(info[2], "callback");
  if (event != "readable" && event != "priority") {
    Reject(info.Env(), "event", "readable or priority");
  }
  const int events = event == "readable" ? UV_READABLE : UV_PRIORITIZED;
  Watch* watch = StartWatch(info, fd, events, callback, "oomlab.poll", OnEvent);
  Environment* environment = watch->environment;
  Napi::Object result = Napi::Object::New(info.Env());
  // The watch may be gone (environment teardown), and a later one may live at its address.
  auto open = std::make_shared<bool>(true);
  result.Set("close",
             Napi::Function::New(info.Env(), [watch, environment, open](const Napi::CallbackInfo&) {
               if (!*open) return;
               *open = false;
               if (environment->watches.count(watch)) CloseWatch(watch);
             }));
  return result;
}

// ---- descriptors

Napi::Value Eventfd(const Napi::CallbackInfo& info) {
  const int fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
  if (fd < 0) throw SystemError(info.Env(), "", "eventfd", errno);
  return Napi::Number::New(info.Env(), fd);
}

Napi::Value PairOf(const Napi::CallbackInfo& info, const int fds[2]) {
  fcntl(fds[0], F_SETFL, fcntl(fds[0], F_GETFL) | O_NONBLOCK);
  Napi::Array pair = Napi::Array::New(info.Env(), 2);
  pair.Set(0u, fds[0]);
  pair.Set(1u, fds[1]);
  return pair;
}

Napi::Value Pipe(const Napi::CallbackInfo& info) {
  int fds[2];
  if (pipe2(fds, O_CLOEXEC) != 0) throw SystemError(info.Env(), "", "pipe", errno);
  return PairOf(info, fds);
}

Napi::Value Socketpair(const Napi::CallbackInfo& info) {
  int fds[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) != 0) {
    throw SystemError(info.Env(), "", "socketpair", errno);
  }
  return PairOf(info, fds);
}

// survey(fd, offset, blocks, blockSize, threads): { next(): Int32Array, close(): void }
Napi::Value SurveyLog(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  const auto natural = [&](size_t at, const char* name) {
    const double number = ToNumber(info[at], name);
    if (number != std::floor(number) || number < 0 || number > 9007199254740991.0) {
      Reject(env, name, "a non-negative integer");
    }
    return static_cast<uint64_t>(number);
  };
  const uint32_t size = ToUnsigned(info[3], "blockSize");
  if (size == 0 || size % 128 != 0) Reject(env, "blockSize", "a multiple of 128");
  const int fd = ToInt(info[0], "fd");
  const uint64_t offset = natural(1, "offset");
  const uint64_t blocks = natural(2, "blocks");
  const uint32_t threads = ToUnsigned(info[4], "threads");
  const auto survey = std::make_shared<std::unique_ptr<Survey>>();
  try {
    survey->reset(new Survey(fd, offset, blocks, size, threads));
  } catch (const std::system_error& error) {
    throw SystemError(env, "", "thread", error.code().value());
  }
  Napi::Object handle = Napi::Object::New(env);
  handle.Set("next", Napi::Function::New(env, [survey](const Napi::CallbackInfo& call) {
               const std::vector<int32_t> found =
                   *survey ? (*survey)->Next() : std::vector<int32_t>();
               Napi::Int32Array result = Napi::Int32Array::New(call.Env(), found.size());
               std::copy(found.begin(), found.end(), result.Data());
               return result;
             }));
  handle.Set("close",
             Napi::Function::New(env, [survey](const Napi::CallbackInfo&) { survey->reset(); }));
  return handle;
}

Napi::Value ReadKmsg(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  auto* environment = static_cast<Environment*>(info.Data());
  const int fd = ToInt(info[0], "fd");
  const uint32_t max = ToUnsigned(info[1], "max");
  Napi::Array records = Napi::Array::New(env);
  bool lost = environment->lost.erase(fd) > 0;
  // printk/internal.h, PRINTKRB_RECORD_MAX is 1 kB; extended records are at most 8 KiB.
  char buffer[16 << 10];
  for (uint32_t count = 0; count < max;) {
    const ssize_t size = read(fd, buffer, sizeof buffer);
    if (size > 0) {
      const size_t end = static_cast<size_t>(size) - (buffer[size - 1] == '\n' ? 1 : 0);
      records.Set(count++, Napi::String::New(env, buffer, end));
    } else if (size < 0 && errno == EPIPE) {
      // A gap after records of this call belongs before the next call's first record.
      if (count > 0) {
        environment->lost.insert(fd);
        break;
      }
      lost = true;
    } else if (size < 0 && errno == EINTR) {
      continue;
    } else if (size == 0 || errno == EAGAIN) {
      break;
    } else {
      throw SystemError(env, "", "read", errno, "/dev/kmsg");
    }
  }
  Napi::Object result = Napi::Object::New(env);
  result.Set("records", records);
  result.Set("lost", lost);
  return result;
}

Napi::Value SeekEnd(const Napi::CallbackInfo& info) {
  if (lseek(ToInt(info[0], "fd"), 0, SEEK_END) < 0) {
    throw SystemError(info.Env(), "", "lseek", errno);
  }
  return info.Env().Undefined();
}

Napi::Value FsMagic(const Napi::CallbackInfo& info) {
  const std::string path = ToText(info[0], "path");
  struct statfs fs;
  if (statfs(path.c_str(), &fs) != 0) {
    throw SystemError(info.Env(), path + ": ", "statfs", errno, path);
  }
  return Napi::Number::New(info.Env(), static_cast<uint32_t>(fs.f_type));
}

Napi::Value Lock(const Napi::CallbackInfo& info) {
  const int fd = ToInt(info[0], "fd");
  if (flock(fd, LOCK_EX | LOCK_NB) == 0) return Napi::Boolean::New(info.Env(), true);
  if (errno == EWOULDBLOCK) return Napi::Boolean::New(info.Env(), false);
  throw SystemError(info.Env(), "", "flock", errno);
}

// ---- this process

Napi::Value SetParentDeathSignal(const Napi::CallbackInfo& info) {
  if (prctl(PR_SET_PDEATHSIG, ToInt(info[0], "signal")) != 0) {
    throw SystemError(info.Env(), "", "prctl", errno);
  }
  return info.Env().Undefined();
}

Napi::Value SetClock(const Napi::CallbackInfo& info) {
  const double ms = ToNumber(info[0], "ms");
  if (!(ms >= 0 && ms < 9e15)) Reject(info.Env(), "ms", "milliseconds since 1970");
  const double seconds = std::floor(ms / 1000);
  const timespec time = {static_cast<time_t>(seconds),
                         static_cast<long>((ms - seconds * 1000) * 1e6)};
  if (clock_settime(CLOCK_REALTIME, &time) != 0) {
    throw SystemError(info.Env(), "", "clock_settime", errno);
  }
  return info.Env().Undefined();
}

Napi::Value SetChildSubreaper(const Napi::CallbackInfo& info) {
  if (!info[0].IsBoolean()) Reject(info.Env(), "on", "a boolean");
  if (prctl(PR_SET_CHILD_SUBREAPER, info[0].As<Napi::Boolean>().Value() ? 1 : 0) != 0) {
    throw SystemError(info.Env(), "", "prctl", errno);
  }
  return info.Env().Undefined();
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
    if (Wait(pid, WNOHANG, &exit) == 0) ended.Set(ended.Length(), ToObject(info.Env(), exit));
  }
  return ended;
}

Napi::Value Capabilities(const Napi::CallbackInfo& info) {
  __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct data[2] = {};
  if (syscall(SYS_capget, &header, data) != 0) throw SystemError(info.Env(), "", "capget", errno);
  char hex[20];
  snprintf(hex, sizeof hex, "%llx",
           static_cast<unsigned long long>(data[1].effective) << 32 | data[0].effective);
  return Napi::String::New(info.Env(), hex);
}

// ---- memory

class MemoryRegion : public Napi::ObjectWrap<MemoryRegion> {
 public:
  static Napi::Function Define(Napi::Env env) {
    return DefineClass(env, "MemoryRegion",
                       {
                           InstanceAccessor<&MemoryRegion::Size>("size", napi_enumerable),
                           InstanceAccessor<&MemoryRegion::Touched>("touched", napi_enumerable),
                           InstanceMethod<&MemoryRegion::TouchNext>("touch"),
                           InstanceMethod<&MemoryRegion::TouchAgain>("retouch"),
                           InstanceMethod<&MemoryRegion::Free>("free"),
                       });
  }

  explicit MemoryRegion(const Napi::CallbackInfo& info) : Napi::ObjectWrap<MemoryRegion>(info) {
    const double size = ToNumber(info[0], "size");
    if (!(size >= 1) || size > 9007199254740991.0 || size != std::floor(size)) {
      Reject(info.Env(), "size", "a positive integer of bytes");
    }
    region_.size = static_cast<uint64_t>(size);
    if (!info[1].IsUndefined()) {
      const Napi::Object options = ToObject(info[1], "options");
      if (Has(options, "hugePages")) {
        if (!options.Get("hugePages").IsBoolean()) {
          Reject(info.Env(), "options.hugePages", "a boolean");
        }
        region_.touch.huge_pages =
            options.Get("hugePages").ToBoolean() ? HugePages::kOn : HugePages::kOff;
      }
      if (Has(options, "content")) {
        const std::string content = ToText(options.Get("content"), "options.content");
        if (content != "zero" && content != "pattern" && content != "random") {
          Reject(info.Env(), "options.content", "zero, pattern or random");
        }
        region_.touch.content = content == "zero"     ? Content::kZero
                                : content == "random" ? Content::kRandom
                                                      : Content::kPattern;
        region_.touch.every = true;
      }
    }
    if (const Failure failure = Open(&region_)) {
      throw SystemError(info.Env(),
                        "allocate " + std::to_string(region_.size) + " bytes: ", failure.op,
                        failure.error);
    }
  }

  ~MemoryRegion() override { Close(&region_); }

 private:
  Napi::Value Size(const Napi::CallbackInfo& info) {
    return Napi::Number::New(info.Env(), static_cast<double>(region_.size));
  }

  Napi::Value Touched(const Napi::CallbackInfo& info) {
    return Napi::Number::New(info.Env(), static_cast<double>(at_));
  }

  Napi::Value TouchNext(const Napi::CallbackInfo& info) {
    const double bytes = ToNumber(info[0], "bytes");
    if (!(bytes >= 0)) Reject(info.Env(), "bytes", "a non-negative number");
    Check(info.Env());
    const uint64_t left = region_.size - at_;
    const uint64_t step = bytes < static_cast<double>(left) ? static_cast<uint64_t>(bytes) : left;
    uint64_t touched = 0;
    // A page that an earlier step ended in has been touched; its content may be unfinished.
    const uint64_t from = (at_ + (region_.touch.every ? 0 : kPage - 1)) / kPage * kPage;
    if (const Failure failure = Press(&region_, from, at_ + step, &touched)) {
      throw SystemError(info.Env(), "", failure.op, failure.error);
    }
    at_ += step;
    return Napi::Number::New(info.Env(), static_cast<double>(step));
  }

  Napi::Value TouchAgain(const Napi::CallbackInfo& info) {
    Check(info.Env());
    if (const Failure failure = Retouch(&region_, at_)) {
      throw SystemError(info.Env(), "", failure.op, failure.error);
    }
    return info.Env().Undefined();
  }

  Napi::Value Free(const Napi::CallbackInfo& info) {
    Close(&region_);
    at_ = 0;
    return info.Env().Undefined();
  }

  void Check(Napi::Env env) {
    if (!region_.base) throw Napi::Error::New(env, "the memory has been freed");
  }

  Region region_;
  uint64_t at_ = 0;
};

Napi::Object Init(Napi::Env env, Napi::Object exports) {
  auto* environment = new Environment;
  environment->env = env;
  napi_get_uv_event_loop(env, &environment->loop);
  napi_add_async_cleanup_hook(env, CleanUp, environment, &environment->cleanup);

  auto method = [&](const char* name, Napi::Value (*function)(const Napi::CallbackInfo&)) {
    exports.Set(name, Napi::Function::New(env, function, name, environment));
  };
  method("spawn", SpawnChild);
  method("onExit", OnExit);
  method("signal", Signal);
  method("poll", Poll);
  method("eventfd", Eventfd);
  method("pipe", Pipe);
  method("socketpair", Socketpair);
  method("survey", SurveyLog);
  method("readKmsg", ReadKmsg);
  method("seekEnd", SeekEnd);
  method("fsMagic", FsMagic);
  method("lock", Lock);
  method("setParentDeathSignal", SetParentDeathSignal);
  method("setChildSubreaper", SetChildSubreaper);
  method("setClock", SetClock);
  method("reapOrphans", ReapOrphans);
  method("capabilities", Capabilities);

  auto region =
      std::make_shared<Napi::FunctionReference>(Napi::Persistent(MemoryRegion::Define(env)));
  exports.Set("allocate", Napi::Function::New(
                              env,
                              [region](const Napi::CallbackInfo& info) {
                                return region->New({info[0], info[1]});
                              },
                              "allocate"));
  return exports;
}

}  // namespace
}  // namespace oomlab

Napi::Object InitOomlab(Napi::Env env, Napi::Object exports) { return oomlab::Init(env, exports); }

NODE_API_MODULE(NODE_GYP_MODULE_NAME, InitOomlab)
