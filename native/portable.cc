// SPDX-License-Identifier: MIT
// For the prebuilt addon: what a libstdc++ made for glibc takes from its C library and musl has
// not, so that one file loads on both. Hidden: of no concern to the process that loads it.
#include <locale.h>
#include <stdarg.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

extern "C" {

// glibc: whether one thread is all there is, so that reference counts need no atomic operations.
// Never.
__attribute__((visibility("hidden"))) char __libc_single_threaded = 0;

__attribute__((visibility("hidden"))) size_t __strftime_l(char* out, size_t size,
                                                          const char* format, const struct tm* time,
                                                          locale_t locale) {
  return strftime_l(out, size, format, time, locale);
}

// Where off_t has 64 bits anyway, fcntl by another name.
__attribute__((visibility("hidden"))) int fcntl64(int fd, int command, ...) {
  va_list list;
  va_start(list, command);
  const long argument = va_arg(list, long);
  va_end(list);
  return static_cast<int>(syscall(SYS_fcntl, fd, command, argument));
}
}
