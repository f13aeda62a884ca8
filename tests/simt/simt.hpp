// A block-parallel machine on one CPU thread: every GPU thread is a fiber, several blocks are in flight, and a
// seeded scheduler decides who runs next. Kernels see it through platform.cuh.
//
// It is sequentially consistent: a missing memory fence does not show. A missing barrier does.
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <vector>

namespace simt {

template <class To, class From>
To bit_cast(From from) {
    static_assert(sizeof(To) == sizeof(From), "same size");
    To to;
    memcpy(&to, &from, sizeof to);
    return to;
}

// Where a thread is.
int thread_index();
uint32_t block_index();
uint32_t grid_blocks();

// The shared memory of the calling thread's block: NaN everywhere when the block starts, its end guarded.
void* shared(size_t bytes);
void shared_index(int index, int size);
void shared_access(const void* address, size_t alignment);

// A copy from global to shared memory: NaN until the calling thread waits for it, with all of its copies or with those of
// all its groups but the last one.
void copy_async(void* shared, const void* global, size_t bytes);
void group_copies();
void wait_for_earlier_copies();
void wait_for_copies();

// All threads of a block must arrive at the same barrier. `barrier_count` returns how many arrived with true.
void barrier(const char* name);
int barrier_count(const char* name, bool predicate);

// Accesses to global memory: of tensors, which no other thread touches, and of what blocks exchange.
void global_access(const void* address, size_t alignment);
void shared_by_blocks(const void* address, size_t alignment);
void progress();  // something was written that another block may be waiting for
void spin();      // nothing to do until another block writes
bool coin();

float half_to_float(uint16_t bits);
uint16_t float_to_half(float value);
uint16_t float_to_bfloat(float value);

struct Kernel {
    const char* name;
    void (*run)(const void* params);
    uint32_t threads;
    uint32_t channels;  // of a tile
    uint32_t length;    // of a tile, in steps
    uint32_t steps;     // of a segment
    uint32_t vector;    // channels per thread
    uint32_t stages;    // tiles of the inputs in shared memory
    uint32_t feeding;   // a Feeding
    bool together;      // whether all blocks of a launch must run at the same time
    uint32_t access;    // elements per access of a vector kernel
    size_t shared_bytes;
    size_t params_bytes;
};

using KernelTable = std::vector<Kernel>;

struct Registration {
    Registration(KernelTable& table, const Kernel& kernel) { table.push_back(kernel); }
};

template <class K>
Kernel describe(const char* name, void (*run)(const void*)) {
    using Tile = typename K::Tile;
    return {name,
            run,
            Tile::kThreads,
            Tile::kChannels,
            Tile::kLength,
            Tile::kSteps,
            Tile::kVector,
            Tile::kStages,
            static_cast<uint32_t>(Tile::kFeeding),
            Tile::kInTurn,
            Tile::kAccess,
            sizeof(typename K::Shared),
            sizeof(typename K::Arguments)};
}

struct Launch {
    const Kernel* kernel;
    const void* params;
    uint32_t grid;                // of a kernel whose blocks must run together, as many of them as are in flight
    uint32_t resident_blocks;     // blocks in flight
    uint64_t seed;
    const char* skipped_barrier;  // null, or the name of a barrier to leave out
};

// Returns null, or what went wrong. The message lives until the next launch.
const char* run(const Launch& launch);

}  // namespace simt
