// The floor of touching memory: touch BYTES, one byte a 4 KiB page of fresh anonymous memory.
#include <stdlib.h>
#include <sys/mman.h>

int main(int argc, char** argv) {
  size_t size = argc > 1 ? strtoull(argv[1], 0, 10) : 0;
  if (size == 0) return 2;
  volatile char* memory =
      mmap(0, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) return 1;
  madvise((void*)memory, size, MADV_NOHUGEPAGE);
  for (size_t at = 0; at < size; at += 4096) memory[at] = 1;
  return 0;
}
