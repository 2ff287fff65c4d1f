// SPDX-License-Identifier: MIT
#include "say.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

namespace oomlab {
namespace {

Level verbosity = Level::kInfo;

}  // namespace

void Say(Level level, int line, const Text& text) {
  if (level > verbosity) return;
  constexpr const char* kNames[] = {"FAIL", "WARN", "info", "dbug"};
  Text message;
  message << "stress: " << kNames[static_cast<int>(level)] << ": [" << getpid() << "] ";
  if (level <= Level::kWarn) message << '(' << line << ") ";
  message << text.c_str() << '\n';
  const ssize_t put = write(level <= Level::kWarn ? 2 : 1, message.c_str(), message.size());
  (void)put;
}

void Die(int line, const Text& text) {
  Say(Level::kFail, line, text);
  _exit(1);
}

const char* Reason(int error) {
  return error == ENOMEM ? "Cannot allocate memory" : strerror(error);
}

void SayUpTo(Level level) { verbosity = level; }

}  // namespace oomlab
