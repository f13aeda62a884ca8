// The C interface of the emulation.
#include <stdio.h>
#include <string.h>

#include "../../cuda/params.cuh"
#include "simt.h"
#include "simt.hpp"

const simt::KernelTable& real_kernels();
const simt::KernelTable& tiny_kernels();

static const simt::Kernel* find(uint32_t variant, const char* name) {
    for (const simt::Kernel& kernel : variant == QUICK_SSM_SIMT_TINY ? tiny_kernels() : real_kernels()) {
        if (strcmp(kernel.name, name) == 0) return &kernel;
    }
    return nullptr;
}

extern "C" int quick_ssm_simt_describe(uint32_t variant, const char* name, quick_ssm_simt_kernel* out) {
    const simt::Kernel* kernel = find(variant, name);
    if (!kernel) return -1;
    *out = {kernel->threads,
            kernel->channels,
            kernel->length,
            kernel->steps,
            kernel->vector,
            kernel->stages,
            kernel->feeding,
            kernel->access,
            static_cast<uint32_t>(kernel->shared_bytes),
            static_cast<uint32_t>(kernel->params_bytes)};
    return 0;
}

extern "C" int quick_ssm_simt_launch(uint32_t variant, const char* name, const void* params, uint32_t grid,
                                     uint32_t block, uint32_t resident_blocks, uint64_t seed,
                                     const char* skipped_barrier, char* message, size_t message_bytes) {
    const simt::Kernel* kernel = find(variant, name);
    if (!kernel) {
        snprintf(message, message_bytes, "no kernel is called %s", name);
        return 1;
    }
    if (block != kernel->threads) {
        snprintf(message, message_bytes, "%s wants blocks of %u threads, not %u", name, kernel->threads, block);
        return 1;
    }
    const char* error = simt::run({kernel, params, grid, resident_blocks, seed, skipped_barrier});
    if (error) snprintf(message, message_bytes, "%s: %s", name, error);
    return error ? 1 : 0;
}

extern "C" uint64_t quick_ssm_simt_plan(uint32_t chunks, uint32_t channel_tiles, uint32_t batch,
                                        uint32_t tile_channels, uint32_t acc_bytes, uint32_t plan[6]) {
    quick_ssm::LookBackPlan computed = quick_ssm::default_radix(channel_tiles);
    const uint32_t rows = quick_ssm::place_rows(computed, chunks);
    memcpy(plan, &computed, sizeof computed);
    return quick_ssm::workspace_bytes(rows, batch, channel_tiles, tile_channels, acc_bytes);
}
