#include "simt.hpp"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#include <algorithm>

namespace simt {
namespace {

constexpr size_t kStackBytes = 64 << 10;
constexpr size_t kSharedLimit = 227 << 10;  // of the cards that large tiles are for
constexpr size_t kSharedGuard = 256;
constexpr unsigned char kGuardByte = 0xa5;
constexpr uint64_t kSpinLimit = 1 << 21;
// One in so many accesses lets another thread run.
constexpr uint32_t kGlobalYield = 8;
constexpr uint32_t kSharedYield = 16;

struct Random {
    uint64_t state;
    uint64_t next() {
        uint64_t z = state += 0x9e3779b97f4a7c15u;
        z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
        z = (z ^ z >> 27) * 0x94d049bb133111ebu;
        return z ^ z >> 31;
    }
    uint32_t below(uint32_t bound) { return static_cast<uint32_t>((next() >> 32) * bound >> 32); }
};

enum class State { kNew, kReady, kWaiting, kDone };

struct Block;

struct Copy {
    void* to;
    const void* from;
    size_t bytes;
    uint32_t group;
};

struct Fiber {
    char* stack = nullptr;
    jmp_buf jump;
    State state = State::kDone;
    Block* block = nullptr;
    int index = 0;
    const char* barrier = nullptr;
    bool predicate = false;
    int count = 0;
    std::vector<Copy> copies;  // that it has not waited for
    uint32_t group = 0;        // of its next copy
};

struct Block {
    uint32_t index = 0;
    std::vector<Fiber> fibers;  // never fewer than before: their stacks are used again
    uint32_t threads = 0;
    std::vector<unsigned char> memory;
    size_t shared_bytes = 0;
    uint32_t waiting = 0;
    uint32_t done = 0;
    bool active = false;
};

struct Machine {
    Launch launch;
    Random random;
    std::vector<Block> blocks;
    std::vector<Fiber*> ready;
    Fiber* current = nullptr;
    Fiber* starting = nullptr;
    jmp_buf scheduler;
    uint64_t spins = 0;
    uint32_t favoured = 0;
    uint32_t favoured_for = 0;
    char message[512];
    bool failed = false;
};

Machine machine;

[[noreturn]] void fail(const char* format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(machine.message, sizeof machine.message, format, arguments);
    va_end(arguments);
    machine.failed = true;
    _longjmp(machine.scheduler, 1);
}

char* make_stack() {
    const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    void* memory = mmap(nullptr, kStackBytes + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) return nullptr;
    mprotect(memory, page, PROT_NONE);  // stacks grow down
    return static_cast<char*>(memory) + page;
}

void switch_away() {
    if (_setjmp(machine.current->jump) == 0) _longjmp(machine.scheduler, 1);
}

void make_ready(Fiber& fiber) {
    fiber.state = State::kReady;
    machine.ready.push_back(&fiber);
}

void yield() {
    make_ready(*machine.current);
    switch_away();
}

void arrive(const char* name, bool predicate) {
    Fiber& self = *machine.current;
    Block& block = *self.block;
    self.barrier = name;
    self.predicate = predicate;
    self.state = State::kWaiting;
    if (block.done > 0) {
        fail("barrier divergence: thread %d waits at '%s' after others have returned", self.index, name);
    }
    if (++block.waiting == block.threads) {
        int count = 0;
        for (uint32_t i = 0; i < block.threads; ++i) {
            const Fiber& fiber = block.fibers[i];
            if (strcmp(fiber.barrier, name) != 0) {
                fail("barrier divergence: thread %d waits at '%s', thread %d at '%s'", fiber.index, fiber.barrier,
                     self.index, name);
            }
            count += fiber.predicate;
        }
        block.waiting = 0;
        for (uint32_t i = 0; i < block.threads; ++i) {
            block.fibers[i].count = count;
            make_ready(block.fibers[i]);
        }
    }
    switch_away();
}

void check_guard(const Block& block) {
    for (size_t i = 0; i < kSharedGuard; ++i) {
        if (block.memory[block.shared_bytes + i] != kGuardByte) fail("write past the end of shared memory");
    }
}

void fiber_main() {
    // The first entry comes over ucontext, which saves the signal mask by a system call; all others by longjmp.
    Fiber& self = *machine.starting;
    machine.launch.kernel->run(machine.launch.params);
    self.state = State::kDone;
    Block& block = *self.block;
    ++block.done;
    if (block.waiting > 0) {
        fail("barrier divergence: thread %d has returned, others wait at a barrier", self.index);
    }
    if (block.done == block.threads) {
        check_guard(block);
        block.active = false;
    }
    _longjmp(machine.scheduler, 1);
}

bool start_block(Block& block, uint32_t index) {
    block.index = index;
    block.threads = machine.launch.kernel->threads;
    if (block.fibers.size() < block.threads) block.fibers.resize(block.threads);
    block.shared_bytes = 0;
    block.waiting = block.done = 0;
    block.active = true;
    block.memory.assign(machine.launch.kernel->shared_bytes + kSharedGuard, 0xff);
    for (uint32_t i = 0; i < block.threads; ++i) {
        Fiber& fiber = block.fibers[i];
        if (!fiber.stack && !(fiber.stack = make_stack())) return false;
        fiber.block = &block;
        fiber.index = static_cast<int>(i);
        fiber.state = State::kNew;
        fiber.barrier = nullptr;
        fiber.copies.clear();
        fiber.group = 0;
        machine.ready.push_back(&fiber);
    }
    return true;
}

// Mostly any thread; for a while now and then only those of one block, so that others fall far behind.
Fiber* pick() {
    std::vector<Fiber*>& ready = machine.ready;
    if (machine.favoured_for == 0 && machine.random.below(512) == 0) {
        machine.favoured = machine.random.below(static_cast<uint32_t>(machine.blocks.size()));
        machine.favoured_for = machine.random.below(4096);
    }
    size_t choice = machine.random.below(static_cast<uint32_t>(ready.size()));
    if (machine.favoured_for > 0) {
        --machine.favoured_for;
        for (int attempt = 0; attempt < 8 && ready[choice]->block != &machine.blocks[machine.favoured]; ++attempt) {
            choice = machine.random.below(static_cast<uint32_t>(ready.size()));
        }
    }
    Fiber* fiber = ready[choice];
    ready[choice] = ready.back();
    ready.pop_back();
    return fiber;
}

void resume(Fiber* fiber) {
    machine.current = fiber;
    if (fiber->state != State::kNew) _longjmp(fiber->jump, 1);
    fiber->state = State::kReady;
    machine.starting = fiber;
    ucontext_t context;
    getcontext(&context);
    context.uc_stack.ss_sp = fiber->stack;
    context.uc_stack.ss_size = kStackBytes;
    context.uc_link = nullptr;
    makecontext(&context, fiber_main, 0);
    setcontext(&context);
}

// One step of one thread. Apart from `run`, so that nothing of the loop lives in registers across the jump.
__attribute__((noinline)) void step() {
    if (_setjmp(machine.scheduler) == 0) resume(pick());
}

const char* drive(uint32_t& started) {
    for (;;) {
        for (Block& block : machine.blocks) {
            // A free place is not always taken at once.
            if (!block.active && started < machine.launch.grid &&
                (machine.ready.empty() || machine.random.below(4) == 0)) {
                if (!start_block(block, started++)) return "no memory for stacks";
            }
        }
        if (machine.ready.empty()) break;
        step();
        if (machine.failed) return machine.message;
    }
    for (const Block& block : machine.blocks) {
        if (block.active) return "deadlock: every thread waits at a barrier";
    }
    return nullptr;
}

}  // namespace

int thread_index() { return machine.current->index; }
uint32_t block_index() { return machine.current->block->index; }
uint32_t grid_blocks() { return machine.launch.grid; }
bool coin() { return machine.random.below(2) == 0; }

void* shared(size_t bytes) {
    Block& block = *machine.current->block;
    if (bytes > kSharedLimit) fail("%zu bytes of shared memory, the limit is %zu", bytes, kSharedLimit);
    if (bytes != machine.launch.kernel->shared_bytes) fail("shared memory is not what the launch gives");
    if (block.shared_bytes == 0) {
        block.shared_bytes = bytes;
        memset(block.memory.data() + bytes, kGuardByte, kSharedGuard);
    } else if (block.shared_bytes != bytes) {
        fail("shared memory declared twice");
    }
    return block.memory.data();
}

void shared_index(int index, int size) {
    if (index < 0 || index >= size) fail("index %d of a shared array of %d", index, size);
    if (machine.random.below(kSharedYield) == 0) yield();
}

void shared_access(const void* address, size_t alignment) {
    const Block& block = *machine.current->block;
    const uintptr_t at = reinterpret_cast<uintptr_t>(address), first = reinterpret_cast<uintptr_t>(block.memory.data());
    if (at < first || at + alignment > first + block.shared_bytes) fail("access outside of shared memory");
    if ((at - first) % alignment != 0) fail("misaligned access of %zu bytes to shared memory", alignment);
    if (machine.random.below(kSharedYield) == 0) yield();
}

// A copy may come at any time: who reads what it overwrites, or what it has not brought yet, reads NaN.
void copy_async(void* shared, const void* global, size_t bytes) {
    shared_access(shared, bytes);
    memset(shared, 0xff, bytes);
    Fiber& self = *machine.current;
    self.copies.push_back({shared, global, bytes, self.group});
}

// Those of all groups before one.
static void finish_copies(uint32_t before) {
    std::vector<Copy>& copies = machine.current->copies;
    const auto left = std::find_if(copies.begin(), copies.end(), [=](const Copy& copy) { return copy.group >= before; });
    for (auto copy = copies.begin(); copy != left; ++copy) memcpy(copy->to, copy->from, copy->bytes);
    copies.erase(copies.begin(), left);
}

void group_copies() { ++machine.current->group; }
void wait_for_copies() { finish_copies(++machine.current->group); }
void wait_for_earlier_copies() {
    const uint32_t group = machine.current->group;
    if (group > 0) finish_copies(group - 1);
}

void barrier(const char* name) { barrier_count(name, false); }

int barrier_count(const char* name, bool predicate) {
    const char* skipped = machine.launch.skipped_barrier;
    if (skipped && strcmp(skipped, name) == 0) return predicate;
    arrive(name, predicate);
    return machine.current->count;
}

void global_access(const void* address, size_t alignment) {
    if (reinterpret_cast<uintptr_t>(address) % alignment != 0) {
        fail("access of %zu bytes at the misaligned address %p", alignment, address);
    }
    if (machine.random.below(kGlobalYield) == 0) yield();
}

void shared_by_blocks(const void* address, size_t alignment) {
    if (reinterpret_cast<uintptr_t>(address) % alignment != 0) {
        fail("access of %zu bytes at the misaligned address %p", alignment, address);
    }
    yield();
}

void progress() { machine.spins = 0; }

void spin() {
    if (++machine.spins > kSpinLimit) fail("livelock: threads poll, and nothing they wait for is written");
    yield();
}

float half_to_float(uint16_t bits) {
    const uint32_t sign = static_cast<uint32_t>(bits & 0x8000) << 16;
    const uint32_t exponent = bits >> 10 & 31, fraction = bits & 0x3ff;
    if (exponent == 31) return bit_cast<float>(sign | 0x7f800000u | fraction << 13);
    if (exponent == 0) {
        const float value = static_cast<float>(fraction) * 0x1p-24f;
        return sign ? -value : value;
    }
    return bit_cast<float>(sign | (exponent + 112) << 23 | fraction << 13);
}

uint16_t float_to_half(float value) {
    const uint32_t bits = bit_cast<uint32_t>(value);
    const uint16_t sign = static_cast<uint16_t>(bits >> 16 & 0x8000);
    const uint32_t magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7fff);
    if (magnitude >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00);
    if (magnitude < 0x38800000u) {
        // Adding 0.5 leaves the subnormal, rounded to nearest even, in the low bits of the sum.
        const float sum = bit_cast<float>(magnitude) + 0.5f;
        return static_cast<uint16_t>(sign | (bit_cast<uint32_t>(sum) - 0x3f000000u));
    }
    const uint32_t rounded = magnitude + 0xfff + (magnitude >> 13 & 1);
    return static_cast<uint16_t>(sign | (rounded - 0x38000000u) >> 13);
}

uint16_t float_to_bfloat(float value) {
    const uint32_t bits = bit_cast<uint32_t>(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fff;
    return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

const char* run(const Launch& launch) {
    machine.launch = launch;
    machine.random.state = launch.seed;
    machine.ready.clear();
    machine.spins = 0;
    machine.favoured_for = 0;
    machine.failed = false;
    if (launch.grid == 0 || launch.resident_blocks == 0) return "an empty launch";
    const uint32_t places = std::min(launch.grid, launch.resident_blocks);
    if (launch.kernel->together) machine.launch.grid = places;
    if (machine.blocks.size() < places) machine.blocks.resize(places);
    for (Block& block : machine.blocks) block.active = false;
    // Places beyond those of this launch stay free.
    std::vector<Block> parked;
    while (machine.blocks.size() > places) {
        parked.push_back(std::move(machine.blocks.back()));
        machine.blocks.pop_back();
    }
    uint32_t started = 0;
    const char* message = drive(started);
    for (Block& block : parked) machine.blocks.push_back(std::move(block));
    return message;
}

}  // namespace simt
