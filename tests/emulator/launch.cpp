// One launch of one kernel: `program FILE`. The file, which tests/emulator/driver.py writes, has what
// `Header` says, the sizes of the buffers, the arguments, and the contents of the buffers, which are
// then what the kernel has made of them.

#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <vector>

#include "scheduler.h"

#ifdef __SSE__
#include <immintrin.h>
#endif

using namespace emulator;

namespace {

struct Header {
  uint64_t grid[3], threads, shared_bytes, resident, seed, buffers, arguments;
  char kernel[128];
};
// A number, or a place in a buffer.
struct Argument {
  int64_t buffer;  // -1: none
  uint64_t value;
};

constexpr unsigned char AROUND = 0xa5;
std::vector<Guarded> buffers;

// A fault: which buffer is it beside?
void explain(int, siginfo_t* fault, void*) {
  static char text[160];
  char* at = static_cast<char*>(fault->si_addr);
  snprintf(text, sizeof text, "memory that nobody owns is touched");
  for (size_t i = 0; i < buffers.size(); i++)
    if (at >= buffers[i].pages && at < buffers[i].pages + buffers[i].all)
      snprintf(text, sizeof text, "buffer %zu of %zu bytes is touched at byte %td", i,
               buffers[i].bytes, at - buffers[i].memory);
  fail(text);
}

size_t padded(size_t bytes) { return (bytes + 15) / 16 * 16; }

}  // namespace

int main(int, char** words) {
  int file = open(words[1], O_RDWR);
  struct stat facts;
  if (file < 0 || fstat(file, &facts)) fail("no file to read the launch from");
  char* all = static_cast<char*>(
      mmap(nullptr, facts.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0));
  auto& header = *reinterpret_cast<Header*>(all);
  auto* sizes = reinterpret_cast<uint64_t*>(all + sizeof(Header));
  auto* arguments = reinterpret_cast<Argument*>(sizes + header.buffers);
  char* contents = reinterpret_cast<char*>(arguments + header.arguments);

  Launch launch{dlsym(RTLD_DEFAULT, header.kernel),
                {unsigned(header.grid[0]), unsigned(header.grid[1]), unsigned(header.grid[2])},
                unsigned(header.threads),
                header.shared_bytes,
                unsigned(header.resident),
                header.seed,
                {}};
  if (!launch.kernel) fail("no kernel of that name");

  static char handler_stack[64 << 10];
  stack_t stack{handler_stack, 0, sizeof handler_stack};
  sigaltstack(&stack, nullptr);
  struct sigaction action{};
  action.sa_sigaction = explain;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK;
  sigaction(SIGSEGV, &action, nullptr);
  sigaction(SIGBUS, &action, nullptr);

  buffers.resize(header.buffers);
  char* from = contents;
  for (size_t i = 0; i < buffers.size(); from += padded(sizes[i++])) {
    buffers[i].make(sizes[i], AROUND, header.seed % 2 == 0);
    memcpy(buffers[i].memory, from, sizes[i]);
  }
  for (size_t i = 0; i < MOST_ARGUMENTS; i++) {
    launch.arguments[i] = 0xdeadbeefdeadbeef;  // an address that nobody has, for one too few
    if (i >= header.arguments) continue;
    const Argument& x = arguments[i];
    launch.arguments[i] =
        x.buffer < 0 ? x.value : reinterpret_cast<uint64_t>(buffers[x.buffer].memory + x.value);
  }
#ifdef __SSE__
  _mm_setcsr(_mm_getcsr() | 0x8040);  // subnormal numbers are zero, as the kernels are compiled
#endif
  run(launch);

  from = contents;
  for (size_t i = 0; i < buffers.size(); from += padded(sizes[i++])) {
    if (!buffers[i].is_clean(AROUND)) {
      static char text[80];
      snprintf(text, sizeof text, "a write right beside buffer %zu of %zu bytes", i,
               buffers[i].bytes);
      fail(text);
    }
    memcpy(from, buffers[i].memory, sizes[i]);
  }
  return 0;
}
