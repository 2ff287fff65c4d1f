// SPDX-License-Identifier: MIT
// Where in a log a record of the OOM killer may be, at memory speed.
#ifndef OOMLAB_SURVEY_H_
#define OOMLAB_SURVEY_H_

#include <stddef.h>
#include <stdint.h>

#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

namespace oomlab {

// Searches a file's blocks by threads of its own, in order, so far ahead of who takes the results.
class Survey {
 public:
  // The descriptor must stay open as long as this lives. Throws std::bad_alloc, std::system_error.
  Survey(int fd, uint64_t offset, uint64_t blocks, size_t block_size, unsigned threads);
  ~Survey();
  Survey(const Survey&) = delete;
  Survey& operator=(const Survey&) = delete;

  // For some next blocks: the number of newlines in each, or -1 where src/kmsg/find.ts would find
  // something in it, or where it cannot be read to its end. Waits for it. Empty where all have
  // been taken.
  std::vector<int32_t> Next();

 private:
  void Work();
  int32_t Look(uint64_t block, uint8_t* buffer) const;
  void Stop();

  const int fd_;
  const uint64_t offset_;
  const uint64_t blocks_;
  const uint64_t groups_;
  const size_t block_size_;
  std::mutex mutex_;
  std::condition_variable found_;
  std::condition_variable taken_on_;
  // Of group i at i % size; empty: not there yet.
  std::vector<std::vector<int32_t>> results_;
  uint64_t next_ = 0;
  uint64_t taken_ = 0;
  bool stopped_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace oomlab

#endif  // OOMLAB_SURVEY_H_
