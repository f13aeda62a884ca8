/* Runs the CUDA kernels of this crate on the CPU, with the parameter struct that a CUDA launch takes. Pointers in
 * it are host pointers. Not thread-safe: one launch at a time per process. */
#ifndef QUICK_SSM_SIMT_H
#define QUICK_SSM_SIMT_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Which compilation of the kernels: with their real tiles, or with tiles of a few steps and channels, for which
 * small problems take every branch. */
enum quick_ssm_simt_variant { QUICK_SSM_SIMT_REAL = 0, QUICK_SSM_SIMT_TINY = 1 };

typedef struct {
    uint32_t threads;      /* per block */
    uint32_t channels;     /* of a tile */
    uint32_t length;       /* of a tile, in steps */
    uint32_t steps;        /* of a segment */
    uint32_t vector;       /* channels of a thread */
    uint32_t stages;       /* tiles of the inputs in shared memory */
    uint32_t feeding;      /* as in cuda/tile.cuh */
    uint32_t access;       /* elements per access of a `_vector` kernel */
    uint32_t shared_bytes; /* shared memory of a block */
    uint32_t params_bytes; /* size of the parameter struct */
} quick_ssm_simt_kernel;

/* 0, or -1 where there is no such kernel. */
int quick_ssm_simt_describe(uint32_t variant, const char* kernel, quick_ssm_simt_kernel* out);

/* Runs `grid` blocks of `block` threads, `resident_blocks` of them at a time (and no more than these of a kernel whose
 * blocks must run together), interleaved as `seed` says, without the barrier called `skipped_barrier` (null: with all).
 * Returns 0, or 1 and writes what went wrong to `message`. */
int quick_ssm_simt_launch(uint32_t variant, const char* kernel, const void* params, uint32_t grid, uint32_t block,
                          uint32_t resident_blocks, uint64_t seed, const char* skipped_barrier, char* message,
                          size_t message_bytes);

/* The default look-back tree, as ten 32-bit words in the order of the parameter struct, and the bytes of workspace
 * it takes: what a launch must compute by itself. */
uint64_t quick_ssm_simt_plan(uint32_t chunks, uint32_t channel_tiles, uint32_t batch, uint32_t tile_channels,
                             uint32_t acc_bytes, uint32_t plan[6]);

/* Runs the kernels against double precision, each problem under so many interleavings, and prints what it finds.
 * Returns 0 where all is well. */
int quick_ssm_simt_self_test(uint32_t interleavings);

#ifdef __cplusplus
}
#endif
#endif
