// SPDX-License-Identifier: MIT
#include "report.h"

#include <errno.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "say.h"

namespace oomlab {
namespace {

int report_fd = -1;

}  // namespace

void ReportTo(int fd) { report_fd = fd; }

bool IsReported() { return report_fd >= 0; }

Event::Event(const char* type) {
  text_ << "{\"type\":\"" << type << "\"";
  Add("pid", static_cast<uint64_t>(getpid()));
}

Event& Event::Add(const char* key, uint64_t value) {
  text_ << ",\"" << key << "\":" << value;
  return *this;
}

Event& Event::Add(const char* key, const char* value) {
  text_ << ",\"" << key << "\":";
  value ? text_ << '"' << value << '"' : text_ << "null";
  return *this;
}

Event& Event::AddTrue(const char* key) {
  text_ << ",\"" << key << "\":true";
  return *this;
}

void Event::Send(bool progress) {
  if (report_fd < 0) return;
  Add("t", Now());
  text_ << "}\n";
  int queued = 0;
  constexpr int kRoomForTheRest = 32 << 10;
  if (progress && ioctl(report_fd, FIONREAD, &queued) == 0 && queued > kRoomForTheRest) return;
  const ssize_t sent = send(report_fd, text_.c_str(), text_.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
  if (sent >= 0 || errno != ENOTSOCK) return;
  pollfd writable = {report_fd, POLLOUT, 0};
  if (poll(&writable, 1, 0) != 1 || !(writable.revents & POLLOUT)) return;
  const ssize_t put = write(report_fd, text_.c_str(), text_.size());
  (void)put;
}

void Fail(const Failure& failure, const char* kind, uint64_t bytes, uint64_t touched) {
  Event("error")
      .Add("op", failure.op)
      .Add("kind", kind)
      .Add("errno", ErrnoName(failure.error))
      .Add("bytes", bytes)
      .Add("touched", touched)
      .Send();
  Say(Level::kFail, __LINE__,
      Text() << (kind ? kind : "start") << ": " << failure.op << ": " << ErrnoName(failure.error)
             << ": " << Reason(failure.error) << " (" << touched << " of " << bytes
             << " bytes touched)");
  syscall(SYS_exit_group, 1);
  __builtin_unreachable();
}

void* MapOrFail(size_t size) {
  void* memory = mmap(nullptr, size, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) Fail({"mmap", errno}, nullptr, size, 0);
  return memory;
}

}  // namespace oomlab
