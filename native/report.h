// SPDX-License-Identifier: MIT
// What the worker tells whoever started it: events, the last of them why it could not go on.
#ifndef OOMLAB_REPORT_H_
#define OOMLAB_REPORT_H_

#include <stddef.h>
#include <stdint.h>

#include "base.h"

namespace oomlab {

// Where events go, and whether they go anywhere; -1, as at first: nowhere.
void ReportTo(int fd);
bool IsReported();

// One event, one line, one write: workers share the descriptor.
class Event {
 public:
  explicit Event(const char* type);
  Event& Add(const char* key, uint64_t value);
  Event& Add(const char* key, const char* value);
  Event& AddTrue(const char* key);

  // Never waits for a reader: what does not fit is dropped, progress long before the rest.
  void Send(bool progress = false);

 private:
  Text text_;
};

// Ends the process, all threads of it. `kind` is nullptr where it is about none.
[[noreturn]] void Fail(const Failure& failure, const char* kind, uint64_t bytes, uint64_t touched);

// Memory for the worker's own use, before anything is touched.
void* MapOrFail(size_t size);

}  // namespace oomlab

#endif  // OOMLAB_REPORT_H_
