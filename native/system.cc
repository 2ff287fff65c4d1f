// SPDX-License-Identifier: MIT
#include "system.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <signal.h>
#include <stdio.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/vfs.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <string>

#include "values.h"

namespace oomlab {
namespace {

Napi::Value PairOf(const Napi::CallbackInfo& info, const int fds[2]) {
  fcntl(fds[0], F_SETFL, fcntl(fds[0], F_GETFL) | O_NONBLOCK);
  Napi::Array pair = Napi::Array::New(info.Env(), 2);
  pair.Set(0u, fds[0]);
  pair.Set(1u, fds[1]);
  return pair;
}

// Where the handler writes to; -1: nowhere.
volatile sig_atomic_t signal_pipe = -1;

// One line a signal, short enough to be written whole: PIPE_BUF.
void TellSignal(int number, siginfo_t* info, void*) {
  const int saved = errno;
  const int fields[] = {number, info->si_code, static_cast<int>(info->si_pid)};
  if (signal_pipe >= 0 && write(signal_pipe, fields, sizeof fields) < 0) {
    // The pipe is full: whoever sends so many signals has been heard.
  }
  errno = saved;
}

}  // namespace

Napi::Value WatchSignals(const Napi::CallbackInfo& info) {
  const int fd = ToInt(info[0], "fd");
  const auto numbers = ToList(info[1], "signals", ToInt);
  struct sigaction action = {};
  if (fd >= 0) {
    signal_pipe = fd;
    action.sa_sigaction = TellSignal;
    action.sa_flags = SA_SIGINFO | SA_RESTART;
  } else {
    action.sa_handler = SIG_DFL;
  }
  for (const int number : numbers) {
    if (sigaction(number, &action, nullptr) != 0) {
      throw SystemError(info.Env(), "", "sigaction", errno);
    }
  }
  if (fd < 0) signal_pipe = -1;
  return info.Env().Undefined();
}

Napi::Value Eventfd(const Napi::CallbackInfo& info) {
  const int fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
  if (fd < 0) throw SystemError(info.Env(), "", "eventfd", errno);
  return Napi::Number::New(info.Env(), fd);
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

Napi::Value SendDatagram(const Napi::CallbackInfo& info) {
  const std::string path = ToText(info[0], "path");
  if (!info[1].IsBuffer()) Reject(info.Env(), "bytes", "a Buffer");
  const auto bytes = info[1].As<Napi::Buffer<char>>();
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path) Reject(info.Env(), "path", "shorter than 108 bytes");
  memcpy(address.sun_path, path.data(), path.size());
  const int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (fd < 0) throw SystemError(info.Env(), "", "socket", errno);
  const ssize_t sent = sendto(fd, bytes.Data(), bytes.Length(), MSG_NOSIGNAL,
                              reinterpret_cast<sockaddr*>(&address), sizeof address);
  const int error = errno;
  close(fd);
  if (sent < 0) throw SystemError(info.Env(), path + ": ", "sendto", error, path);
  return info.Env().Undefined();
}

Napi::Value Lock(const Napi::CallbackInfo& info) {
  const int fd = ToInt(info[0], "fd");
  if (flock(fd, LOCK_EX | LOCK_NB) == 0) return Napi::Boolean::New(info.Env(), true);
  if (errno == EWOULDBLOCK) return Napi::Boolean::New(info.Env(), false);
  throw SystemError(info.Env(), "", "flock", errno);
}

Napi::Value MountDetached(const Napi::CallbackInfo& info) {
  const std::string type = ToText(info[0], "type");
  // fsopen(2) and the calls beside it: neither glibc before 2.36 nor musl has functions for them.
  const auto call = [&](const char* name, long result) {
    if (result < 0) throw SystemError(info.Env(), "", name, errno);
    return static_cast<int>(result);
  };
  const int context = call("fsopen", syscall(SYS_fsopen, type.c_str(), 1u /* FSOPEN_CLOEXEC */));
  const long created =
      syscall(SYS_fsconfig, context, 6u /* FSCONFIG_CMD_CREATE */, nullptr, nullptr, 0);
  const long mount = created < 0 ? -1 : syscall(SYS_fsmount, context, 1u /* FSMOUNT_CLOEXEC */, 0u);
  const int error = errno;
  close(context);
  errno = error;
  return Napi::Number::New(info.Env(), call(created < 0 ? "fsconfig" : "fsmount", mount));
}

Napi::Value FsMagic(const Napi::CallbackInfo& info) {
  const std::string path = ToText(info[0], "path");
  struct statfs fs;
  if (statfs(path.c_str(), &fs) != 0) {
    throw SystemError(info.Env(), path + ": ", "statfs", errno, path);
  }
  return Napi::Number::New(info.Env(), static_cast<uint32_t>(fs.f_type));
}

Napi::Value Xattr(const Napi::CallbackInfo& info) {
  const std::string path = ToText(info[0], "path");
  const std::string name = ToText(info[1], "name");
  char value[4096];
  const ssize_t size = getxattr(path.c_str(), name.c_str(), value, sizeof value);
  if (size >= 0) return Napi::String::New(info.Env(), value, static_cast<size_t>(size));
  // A file system without extended attributes has none of this name either.
  if (errno == ENODATA || errno == ENOTSUP) return info.Env().Null();
  throw SystemError(info.Env(), path + ": ", "getxattr", errno, path);
}

Napi::Value SetParentDeathSignal(const Napi::CallbackInfo& info) {
  if (prctl(PR_SET_PDEATHSIG, ToInt(info[0], "signal")) != 0) {
    throw SystemError(info.Env(), "", "prctl", errno);
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

Napi::Value Capabilities(const Napi::CallbackInfo& info) {
  __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct data[2] = {};
  if (syscall(SYS_capget, &header, data) != 0) throw SystemError(info.Env(), "", "capget", errno);
  char hex[20];
  snprintf(hex, sizeof hex, "%llx",
           static_cast<unsigned long long>(data[1].effective) << 32 | data[0].effective);
  return Napi::String::New(info.Env(), hex);
}

}  // namespace oomlab
