/** What programs write last when memory ran out for them: a table, so that a runtime more is a row more. Pure. */

export interface LastWords {
  cause: "heap-limit" | "enomem";
  /** Who gave up, as a sentence names it. */
  runtime: string;
  /** The line that says so. */
  text: string;
  advice: string | null;
}

interface Row {
  cause: LastWords["cause"];
  runtime: string;
  words: RegExp;
  advice?: string;
}

/** The first row that matches counts: what a runtime says of its own limit comes before what it says of the kernel. */
const rows: readonly Row[] = [
  // V8 (src/api/api.cc FatalProcessOutOfMemory; src/heap/heap.cc). Its address space, not its heap:
  {
    cause: "enomem",
    runtime: "V8",
    words:
      /(?:Fatal process out of memory: (?:Zone|CodeRange|SegmentedTable|.*[Aa]llocate virtual memory)|CodeRange setup: allocate virtual memory).*/,
  },
  {
    cause: "heap-limit",
    runtime: "V8",
    words:
      /(?:FATAL ERROR: .*(?:JavaScript heap out of memory|Allocation failed)|Fatal (?:JavaScript|process) out of memory: |\[ERR_WORKER_OUT_OF_MEMORY\]).*/,
    advice: "give V8 a larger heap: NODE_OPTIONS=--max-old-space-size=MIB, below the memory limit",
  },
  // The JVM (src/hotspot/share/memory/universe.cpp, runtime/os.cpp).
  {
    cause: "enomem",
    runtime: "the JVM",
    words:
      /(?:java\.lang\.OutOfMemoryError: (?:unable to create (?:new )?native thread|.*native memory allocation).*|There is insufficient memory for the Java Runtime Environment to continue|.*os::commit_memory.*failed; error=.*|Native memory allocation \((?:mmap|malloc)\) failed .*|Could not reserve enough space for .*object heap.*)/,
  },
  {
    cause: "heap-limit",
    runtime: "the JVM",
    words:
      /(?:java\.lang\.OutOfMemoryError|Terminating due to java\.lang\.OutOfMemoryError|Aborting due to java\.lang\.OutOfMemoryError).*/,
    advice: "give the JVM a larger heap: -XX:MaxRAMPercentage or -Xmx, below the memory limit",
  },
  // Go (runtime/malloc.go, mem_linux.go): GOMEMLIMIT ends nothing, only the kernel's no does.
  {
    cause: "heap-limit",
    runtime: "Go's runtime",
    words:
      /(?:fatal error: (?:runtime: )?(?:out of memory|cannot allocate memory)|runtime: out of memory: cannot allocate ).*/,
  },
  {
    cause: "enomem",
    runtime: "Go's runtime",
    words: /(?:fatal error: runtime: cannot (?:reserve|map|allocate)|runtime: mmap: ).*/,
  },
  { cause: "heap-limit", runtime: "Python", words: /^(?:numpy\S*\.)?_?(?:Array)?MemoryError\b.*/m },
  {
    cause: "heap-limit",
    runtime: "Ruby",
    words: /.*(?:failed to allocate memory \(NoMemoryError\)|\(NoMemoryError\)).*/,
  },
  {
    cause: "heap-limit",
    runtime: "PHP",
    words: /(?:PHP )?Fatal error: .*Allowed memory size of \d+ bytes exhausted.*/,
    advice: "raise PHP's memory_limit, below the memory limit",
  },
  { cause: "heap-limit", runtime: ".NET", words: /.*(?:System\.OutOfMemoryException|^Out of memory\.$).*/m },
  // Programs without a heap of their own: the kernel's no, passed on.
  { cause: "enomem", runtime: "the C++ library", words: /.*std::bad_alloc.*/ },
  { cause: "enomem", runtime: "Rust's allocator", words: /.*memory allocation of \d+ bytes failed.*/ },
  {
    cause: "enomem",
    runtime: "Erlang's runtime",
    words: /.*(?:eheap_alloc|binary_alloc): Cannot allocate \d+ bytes.*/,
  },
  {
    cause: "enomem",
    runtime: "the program",
    words:
      /.*(?:[Cc]annot allocate memory|\bENOMEM\b|[Vv]irtual memory exhausted|memory exhausted|[Oo]ut of memory|[Nn]ot enough memory|failed to allocate memory).*/,
  },
];

/** Null: what it wrote says nothing of memory. */
export function memoryWords(output: string): LastWords | null {
  for (const { cause, runtime, words, advice } of rows) {
    const found = words.exec(output)?.[0].trim();
    if (found) return { cause, runtime, text: found.slice(0, 300), advice: advice ?? null };
  }
  return null;
}
