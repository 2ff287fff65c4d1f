// SPDX-License-Identifier: MIT
// What the addon and the worker share: names of the kernel's numbers, and text without an
// allocator.
#ifndef OOMLAB_BASE_H_
#define OOMLAB_BASE_H_

#include <limits.h>
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

// Appends to text of that size and capacity; what does not fit is cut.
void Append(char* text, size_t capacity, size_t* size, const char* more);
void Append(char* text, size_t capacity, size_t* size, bool negative, unsigned long long number);

// One line being built, without an allocator.
template <size_t N>
class TextOf {
 public:
  TextOf() { data_[0] = 0; }

  TextOf& operator<<(const char* text) {
    Append(data_, N, &size_, text);
    return *this;
  }
  TextOf& operator<<(char c) {
    const char text[2] = {c, 0};
    return *this << text;
  }
  TextOf& operator<<(unsigned long long number) {
    Append(data_, N, &size_, false, number);
    return *this;
  }
  TextOf& operator<<(long long number) {
    const auto bits = static_cast<unsigned long long>(number);
    Append(data_, N, &size_, number < 0, number < 0 ? 0 - bits : bits);
    return *this;
  }
  TextOf& operator<<(int number) { return *this << static_cast<long long>(number); }
  TextOf& operator<<(long number) { return *this << static_cast<long long>(number); }
  TextOf& operator<<(unsigned number) { return *this << static_cast<unsigned long long>(number); }
  TextOf& operator<<(unsigned long number) {
    return *this << static_cast<unsigned long long>(number);
  }

  const char* c_str() const { return data_; }
  size_t size() const { return size_; }

 private:
  char data_[N];
  size_t size_ = 0;
};

// A message or an event; small, for every page of stack is a fault at start.
using Text = TextOf<512>;
// A file's name.
using PathText = TextOf<PATH_MAX + 64>;

// The first `capacity - 1` bytes of a file, terminated; false when it cannot be read.
bool ReadFile(const char* path, char* buffer, size_t capacity);

// Writes the whole text into an existing file; 0 or the errno.
int WriteFile(const char* path, const char* text, size_t size);

// CLOCK_MONOTONIC in microseconds.
uint64_t Now();

}  // namespace oomlab

#endif  // OOMLAB_BASE_H_
