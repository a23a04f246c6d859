// Every CUDA thread has a stack of its own and runs until it has to wait for others. Compiled without
// a sanitizer; ThreadSanitizer is told of the threads and of what puts them in order, which is
// barriers and the launch alone: what two threads do without these between them is a race. While
// they run, nothing here may allocate, or call memcpy and the like: it watches those too.

#include "scheduler.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include <memory>
#include <random>
#include <utility>
#include <vector>

#include "context.h"

extern "C" {
__attribute__((weak)) void* __tsan_get_current_fiber();
__attribute__((weak)) void* __tsan_create_fiber(unsigned);
__attribute__((weak)) void __tsan_destroy_fiber(void*);
__attribute__((weak)) void __tsan_switch_to_fiber(void*, unsigned);
__attribute__((weak)) void __tsan_acquire(void*);
__attribute__((weak)) void __tsan_release(void*);
}

namespace emulator {
namespace {

constexpr int LANES = 32, WORDS = 10, MOST_VARIABLES = 8;
constexpr size_t PAGE = 4096, STACK = 64 * PAGE;
constexpr size_t STATIC_SHARED = 48 << 10;  // bytes of variables that a block may share
constexpr unsigned char POISON = 0xff;      // NaN in every type

enum State { READY, AT_BARRIER, IN_WARP, DONE };
enum Operation { BARRIER = 1, SHUFFLE, MINIMUM, ADDRESSES, PRODUCT };

struct Block;

struct Thread {
  Context context;
  void* tsan = nullptr;
  Block* block = nullptr;
  unsigned number = 0;
  State state = DONE;
};

// What the lanes give each other. Two of each: some lanes may still read while others give anew.
struct Warp {
  int lanes = 0, arrived = 0;
  unsigned round = 0;
  Operation operation = BARRIER;
  uint32_t given[2][LANES][WORDS];
  char order[2];
};

struct Block {
  Dim index{};
  unsigned live = 0, at_barrier = 0, round = 0;
  std::vector<Thread> threads;
  std::vector<Warp> warps;
  int variables = 0;
  int numbers[MOST_VARIABLES];  // by which the kernel knows them
  Guarded shared[MOST_VARIABLES];
  char made[MOST_VARIABLES];  // what orders their making and their use
  size_t shared_bytes = 0;
  char* stacks = nullptr;
  char order[2];
};

// The threads that can run, from the first to the last that became so.
class Queue {
 public:
  void reserve(size_t most) { places.resize(most + 1); }
  size_t size() const { return (end + places.size() - begin) % places.size(); }
  void push_back(Thread* thread) {
    places[end] = thread;
    end = (end + 1) % places.size();
  }
  void push_front(Thread* thread) {
    begin = (begin + places.size() - 1) % places.size();
    places[begin] = thread;
  }
  Thread* pop_front() {
    Thread* first = places[begin];
    begin = (begin + 1) % places.size();
    return first;
  }
  Thread* pop_back() {
    end = (end + places.size() - 1) % places.size();
    return places[end];
  }
  // One from anywhere, in whose place the last comes.
  Thread* pop(size_t i) {
    Thread*& place = places[(begin + i) % places.size()];
    Thread *taken = place, *last = pop_back();
    if (taken != last) place = last;
    return taken;
  }

 private:
  std::vector<Thread*> places;
  size_t begin = 0, end = 0;
};

const Launch* launch;
Thread main_thread, *current = &main_thread;
Queue ready;
std::mt19937_64 chance;
size_t waits;  // of threads that paused, since another got on
unsigned in_flight;
Block* finished;
char begun, ended;  // what orders the launch and its threads

bool is_sanitized() { return __tsan_create_fiber; }
void acquire(char* order) {
  if (is_sanitized()) __tsan_acquire(order);
}
void release(char* order) {
  if (is_sanitized()) __tsan_release(order);
}

// ---------------------------------------------------------------- who runs next

void switch_to(Thread* next) {
  Thread* from = std::exchange(current, next);
  if (from == next) return;
  if (is_sanitized()) __tsan_switch_to_fiber(next->tsan, 1);  // which puts nothing in order
  switch_context(from->context, next->context);
}

void wake(Thread& thread) {
  thread.state = READY;
  ready.push_back(&thread);
  waits = 0;
}

Thread* next_thread() {
  if (!ready.size()) fail("deadlock: all threads wait for each other");
  if (launch->seed > 1) return ready.pop(chance() % ready.size());
  return launch->seed ? ready.pop_back() : ready.pop_front();
}

void leave() { switch_to(next_thread()); }

void enter() {
  acquire(&begun);
  const uint64_t* x = launch->arguments;
  using W = uint64_t;
  reinterpret_cast<void (*)(W, W, W, W, W, W, W, W, W, W, W, W, W, W, W, W, W, W, W, W, W, W, W, W,
                            W, W, W, W, W, W, W, W)>(launch->kernel)(
      x[0], x[1], x[2], x[3], x[4], x[5], x[6], x[7], x[8], x[9], x[10], x[11], x[12], x[13], x[14],
      x[15], x[16], x[17], x[18], x[19], x[20], x[21], x[22], x[23], x[24], x[25], x[26], x[27],
      x[28], x[29], x[30], x[31]);
  release(&ended);
  Block& block = *current->block;
  current->state = DONE;
  waits = 0;
  if (block.at_barrier) fail("a thread leaves the kernel while others wait for it at a barrier");
  if (--block.live) leave();
  finished = &block;
  switch_to(&main_thread);
}

// ---------------------------------------------------------------- blocks

void begin_block(Block& block, Dim index) {
  block.index = index;
  block.live = launch->threads;
  block.threads = std::vector<Thread>(launch->threads);
  block.warps = std::vector<Warp>((launch->threads + LANES - 1) / LANES);
  block.stacks = static_cast<char*>(mmap(nullptr, STACK * launch->threads, PROT_READ | PROT_WRITE,
                                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
  if (block.stacks == MAP_FAILED) fail("no memory for the stacks of a block");
  for (unsigned i = 0; i < launch->threads; i++) {
    Thread& thread = block.threads[i];
    thread.block = &block;
    thread.number = i;
    char* stack = block.stacks + STACK * i;
    mprotect(stack, PAGE, PROT_NONE);
    make_context(thread.context, stack + PAGE, STACK - PAGE, enter);
    if (is_sanitized()) thread.tsan = __tsan_create_fiber(0);
    block.warps[i / LANES].lanes++;
    wake(thread);
  }
  in_flight++;
}

// Stacks and shared memory are given back, since ThreadSanitizer would take their next owner for
// somebody who races with this one.
void end_block(Block& block) {
  for (int i = 0; i < block.variables; i++) {
    if (!block.shared[i].is_clean(POISON)) fail("a write before shared memory");
    block.shared[i].free();
  }
  if (is_sanitized())
    for (Thread& thread : block.threads) __tsan_destroy_fiber(thread.tsan);
  munmap(block.stacks, STACK * launch->threads);
  in_flight--;
}

Guarded& shared_of(Block& block, int number, size_t bytes) {
  for (int i = 0; i < block.variables; i++)
    if (block.numbers[i] == number) {
      acquire(&block.made[i]);
      return block.shared[i];
    }
  if (block.variables == MOST_VARIABLES) fail("too many variables in shared memory");
  block.numbers[block.variables] = number;
  Guarded& variable = block.shared[block.variables];
  variable.make(bytes, POISON, true);
  release(&block.made[block.variables++]);
  return variable;
}

// ---------------------------------------------------------------- warps

// Each lane gives some words; when the last has, `finish` may work on them, and all go on. Returns
// what the lanes have given.
uint32_t (*exchange(Operation operation, const uint32_t* words, int count,
                    void (*finish)(uint32_t (*)[WORDS]) = nullptr))[WORDS] {
  Block& block = *current->block;
  Warp& warp = block.warps[current->number / LANES];
  unsigned side = warp.round & 1, mine = current->number % LANES;
  if (warp.arrived && warp.operation != operation)
    fail("lanes of a warp are at different operations");
  warp.operation = operation;
  for (int i = 0; i < count; i++) warp.given[side][mine][i] = words[i];
  if (operation == BARRIER) release(&warp.order[side]);
  current->state = IN_WARP;
  if (++warp.arrived == warp.lanes) {
    warp.arrived = 0;
    warp.round++;
    if (finish) finish(warp.given[side]);
    unsigned first = current->number - mine;
    for (int i = 0; i < warp.lanes; i++) wake(block.threads[first + i]);
  }
  leave();
  if (operation == BARRIER) acquire(&warp.order[side]);
  return warp.given[side];
}

float bf16_value(uint32_t two, int which) {
  uint32_t bits = which ? two & 0xffff0000 : two << 16;
  float x;
  __builtin_memcpy(&x, &bits, 4);
  return x;
}

// PTX manual, mma.m16n8k16 with bf16: register i of A has row l / 4 + 8 (i % 2) and columns
// 2 (l % 4) + 8 (i / 2) and the next; register i of B rows 2 (l % 4) + 8 i and the next, column l / 4;
// d has row l / 4 + 8 (i / 2), column 2 (l % 4) + i % 2. Sums are rounded towards zero.
void multiply_given(uint32_t (*given)[WORDS]) {
  double a[16][16], b[16][8], d[16][8];
  for (int l = 0; l < LANES; l++)
    for (int next = 0; next < 2; next++) {
      int along = l % 4 * 2 + next;
      for (int i = 0; i < 4; i++)
        a[l / 4 + 8 * (i % 2)][along + 8 * (i / 2)] = bf16_value(given[l][i], next);
      for (int i = 0; i < 2; i++) b[along + 8 * i][l / 4] = bf16_value(given[l][4 + i], next);
      for (int i = 0; i < 2; i++) {
        float x;
        __builtin_memcpy(&x, &given[l][6 + 2 * i + next], 4);
        d[l / 4 + 8 * i][along] = x;
      }
    }
  for (int row = 0; row < 16; row++)
    for (int k = 0; k < 16; k++)
      for (int column = 0; column < 8; column++) d[row][column] += a[row][k] * b[k][column];
  for (int l = 0; l < LANES; l++)
    for (int i = 0; i < 4; i++) {
      double exact = d[l / 4 + 8 * (i / 2)][l % 4 * 2 + i % 2];
      float x = float(exact);
      if (fabs(double(x)) > fabs(exact) && x - x == 0) x = nextafterf(x, 0.f);
      __builtin_memcpy(&given[l][6 + i], &x, 4);
    }
}

}  // namespace

// ---------------------------------------------------------------- what kernels call

Dim thread_index() { return {current->number, 0, 0}; }
Dim block_index() { return current->block->index; }
Dim block_size() { return {launch->threads, 1, 1}; }
Dim grid_size() { return launch->grid; }
int lane() { return current->number % LANES; }

void block_barrier() {
  Block& block = *current->block;
  char* order = &block.order[block.round & 1];
  release(order);
  current->state = AT_BARRIER;
  if (++block.at_barrier == launch->threads) {
    block.at_barrier = 0;
    block.round++;
    for (Thread& thread : block.threads) wake(thread);
  } else if (block.live != launch->threads) {
    fail("a barrier that some threads have left the kernel without");
  }
  leave();
  acquire(order);
}

void warp_barrier() { exchange(BARRIER, nullptr, 0); }

void pause() {
  launch->seed ? ready.push_front(current) : ready.push_back(current);  // the last to come next
  if (++waits > 4 * ready.size() * ready.size() + 1000) fail("threads wait for ever for other blocks");
  leave();
}

unsigned shuffle(unsigned value, int from) {
  return exchange(SHUFFLE, &value, 1)[from % LANES][0];
}

int warp_minimum(int value) {
  uint32_t bits = value;
  auto given = exchange(MINIMUM, &bits, 1);
  int lanes = current->block->warps[current->number / LANES].lanes;
  for (int i = 0; i < lanes; i++) value = int(given[i][0]) < value ? int(given[i][0]) : value;
  return value;
}

void gather_rows(const void* row, const unsigned short* (&rows)[32]) {
  uintptr_t address = reinterpret_cast<uintptr_t>(row);
  bool is_shared = false;
  for (int i = 0; i < current->block->variables; i++) {
    const Guarded& variable = current->block->shared[i];
    uintptr_t from = reinterpret_cast<uintptr_t>(variable.memory);
    is_shared |= from <= address && address + 16 <= from + variable.bytes;
  }
  if (!is_shared) fail("ldmatrix of a row that is not in shared memory");
  if (address % 16) fail("ldmatrix of a row that is not aligned to 16 bytes");
  uint32_t words[2] = {uint32_t(address), uint32_t(uint64_t(address) >> 32)};
  auto given = exchange(ADDRESSES, words, 2);
  for (int i = 0; i < LANES; i++)
    rows[i] = reinterpret_cast<const unsigned short*>(given[i][0] | uint64_t(given[i][1]) << 32);
}

void multiply_matrices(float (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
  uint32_t words[WORDS] = {a[0], a[1], a[2], a[3], b0, b1};
  for (int i = 0; i < 4; i++) __builtin_memcpy(&words[6 + i], &d[i], 4);
  uint32_t* own = exchange(PRODUCT, words, WORDS, multiply_given)[lane()];
  for (int i = 0; i < 4; i++) __builtin_memcpy(&d[i], &own[6 + i], 4);
}

void* shared_variable(int number, size_t bytes) {
  Block& block = *current->block;
  int known = block.variables;
  Guarded& variable = shared_of(block, number, bytes);
  if (block.variables > known && (block.shared_bytes += bytes) > STATIC_SHARED)
    fail("more than 48 KiB of variables in shared memory");
  return variable.memory;
}
void* shared_memory() { return shared_of(*current->block, -1, launch->shared_bytes).memory; }

// ---------------------------------------------------------------- a launch

void Guarded::make(size_t wanted, unsigned char filling, bool at_end) {
  bytes = wanted;
  size_t room = (bytes + PAGE - 1) / PAGE * PAGE;
  all = room + 2 * PAGE;
  pages = static_cast<char*>(mmap(nullptr, all, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  if (pages == MAP_FAILED || (room && mprotect(pages + PAGE, room, PROT_READ | PROT_WRITE)))
    fail("no memory for a tensor");
  memory = pages + PAGE + (at_end ? room - (bytes + 15) / 16 * 16 : 0);
  for (size_t i = 0; i < room; i++) pages[PAGE + i] = char(filling);
}
bool Guarded::is_clean(unsigned char filling) const {
  for (char* p = pages + PAGE; p < pages + all - PAGE; p++)
    if ((p < memory || p >= memory + bytes) && (unsigned char)(*p) != filling) return false;
  return true;
}
void Guarded::free() { munmap(pages, all); }

void run(const Launch& wanted) {
  launch = &wanted;
  chance.seed(wanted.seed);
  ready.reserve(size_t(wanted.resident) * wanted.threads);
  size_t count = size_t(wanted.grid.x) * wanted.grid.y * wanted.grid.z, next = 0;
  std::vector<size_t> order(count);
  for (size_t i = 0; i < count; i++) order[i] = wanted.seed == 1 ? count - 1 - i : i;
  if (wanted.seed > 1)
    for (size_t i = count; i > 1; i--) std::swap(order[i - 1], order[chance() % i]);
  std::vector<std::unique_ptr<Block>> blocks;
  if (is_sanitized()) main_thread.tsan = __tsan_get_current_fiber();
  release(&begun);
  for (;;) {
    if (finished) {
      end_block(*finished);
      for (auto& block : blocks)
        if (block.get() == finished) std::swap(block, blocks.back());
      blocks.pop_back();
      finished = nullptr;
    }
    while (next < count && in_flight < wanted.resident) {
      blocks.push_back(std::make_unique<Block>());
      size_t i = order[next++], x = wanted.grid.x, y = wanted.grid.y;
      begin_block(*blocks.back(), {unsigned(i % x), unsigned(i / x % y), unsigned(i / x / y)});
    }
    if (!in_flight) break;
    leave();
  }
  acquire(&ended);
}

void fail(const char* what) {
  fprintf(stderr, "emulator: %s", what);
  if (current != &main_thread) {
    Dim at = current->block->index;
    int states[4] = {};
    for (Thread& thread : current->block->threads) states[thread.state]++;
    fprintf(stderr, " (block %u,%u,%u, thread %u; of its threads %d run, %d are at a barrier, "
            "%d in a warp's operation, %d done)", at.x, at.y, at.z, current->number, states[READY],
            states[AT_BARRIER], states[IN_WARP], states[DONE]);
  }
  fprintf(stderr, "\n");
  fflush(stderr);
  _exit(WRONG);
}

}  // namespace emulator
