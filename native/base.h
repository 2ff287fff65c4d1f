// SPDX-License-Identifier: MIT
// What the addon and the worker share: names of the kernel's numbers, and text without an
// allocator.
#ifndef OOMLAB_BASE_H_
#define OOMLAB_BASE_H_

#include <stddef.h>
#include <stdint.h>
#include <sys/resource.h>
#include <time.h>

namespace oomlab {

// "ENOMEM" for ENOMEM; "E<number>" has no name anywhere, so those come back as "EUNKNOWN".
const char* ErrnoName(int error);

// "SIGKILL" for SIGKILL, nullptr for a number that is no signal of the tables.
const char* SignalName(int signal);

// RLIMIT_AS for "AS"; -1 for an unknown name.
int RlimitByName(const char* name);

// A system call that the kernel refused: its name and errno; op is nullptr where all went well.
struct Failure {
  const char* op = nullptr;
  int error = 0;
  explicit operator bool() const { return op != nullptr; }
};

// One line being built; it is cut, never overrun.
class Text {
 public:
  Text() { data_[0] = 0; }
  Text& operator<<(const char* text);
  Text& operator<<(char c);
  Text& operator<<(int number) { return *this << static_cast<long long>(number); }
  Text& operator<<(long number) { return *this << static_cast<long long>(number); }
  Text& operator<<(long long number);
  Text& operator<<(unsigned number) { return *this << static_cast<unsigned long long>(number); }
  Text& operator<<(unsigned long number) {
    return *this << static_cast<unsigned long long>(number);
  }
  Text& operator<<(unsigned long long number);

  const char* c_str() const { return data_; }
  size_t size() const { return size_; }

 private:
  // Longer than any path with a message around it.
  char data_[4352];
  size_t size_ = 0;
};

// The first `capacity - 1` bytes of a file, terminated; false when it cannot be read.
bool ReadFile(const char* path, char* buffer, size_t capacity);

// Writes the whole text into an existing file; 0 or the errno.
int WriteFile(const char* path, const char* text, size_t size);

// CLOCK_MONOTONIC in microseconds.
uint64_t Now();

}  // namespace oomlab

#endif  // OOMLAB_BASE_H_
