// What a launch is told, field by field, and how large its workspace is. The Rust side mirrors this file.
#pragma once

#include "element.cuh"

namespace QUICK_SSM_NAMESPACE {

// A tensor that is read: element (i, t, d) lies at data + i * batch_stride + t * time_stride + d * channel_stride,
// counted in elements, where t counts in the order in which time runs. A stride of 0 repeats.
struct Operand {
    const void* data;         // null where the field using it says so
    int64_t batch_stride;
    int64_t time_stride;
    uint32_t channel_stride;  // 0 or 1
    uint32_t dtype;           // a DType; only read for grad_y and a_bias, the others have the type of the kernel
};
static_assert(sizeof(Operand) == 32, "mirrored in Rust");

// Division of numbers below 2^31 by one that a launch knows beforehand, by a product: by d = 1, or with
// l = ceil(log2 d) and magic = floor(2^(31 + l) / d) + 1 (Granlund and Montgomery, 1994).
struct Divisor {
    uint32_t magic;  // 0: the divisor is 1
    uint32_t shift;  // l - 1

    QUICK_SSM_BOTH uint32_t quotient(uint32_t number) const {
        if (magic == 0) return number;
        return static_cast<uint32_t>(static_cast<uint64_t>(number) * magic >> 32) >> shift;
    }
};
QUICK_SSM_BOTH Divisor divisor(uint32_t by) {
    Divisor result = {0, 0};
    if (by == 1) return result;
    while ((by - 1) >> (result.shift + 1) != 0) ++result.shift;
    result.magic = static_cast<uint32_t>((uint64_t{1} << (32 + result.shift)) / by + 1);
    return result;
}

// The tree of the look-back over chunks. Level l has one row per 2^shift[l] chunks: those of tiles and of groups of tiles
// hold carries, the rows of groups of groups the states after them. A row is one packet (two for f64) per column and slot.
struct LookBackPlan {
    uint32_t shift[3];  // shift[0] = 0, rising
    uint32_t begin[3];  // first row of each level
};
static_assert(sizeof(LookBackPlan) == 24, "mirrored in Rust");

// One struct for both directions and forms, and for sums, which read x. Tensors that are written are contiguous but for the
// rows of gradients; null means not wanted. N is `batch`, or `sequences` where `offsets` is given. "Acc" is f64 for f64
// kernels and f32 for all others. In the gated form x, a, b, c are the parts u, a, d, ca of the pre-activations.
struct Params {
    Operand x;
    Operand a;
    Operand b;
    Operand c;       // null: all ones, so that y is h
    Operand cb;      // gated
    Operand grad_y;  // backward; any DType; null: zeros
    Operand a_bias;  // gated: of one step; any DType; null: zeros

    const void* initial_state;    // [N, D] Acc; null: zeros
    const void* grad_last_state;  // backward: [N, D] Acc; null: zeros
    const int64_t* offsets;       // packed sequences: N + 1 offsets into time, with batch = 1; else null

    void* y;             // forward, and gated backward: [B, L, D] in y_dtype; sum: [chunks, D] in y_dtype
    void* last_state;    // forward: [N, D] Acc
    void* saved_states;  // [B, ceil(L / 2^saved_shift), D] Acc: the state before each backward tile, in the order
                         // in which time runs; written by the forward where given, read by the backward, which
                         // needs it where it computes from h
    void* dx;            // backward: rows of [B, L, D] in the type of the kernel; also da, db, dc, dcb
    void* da;
    void* db;
    void* dc;
    void* dcb;           // gated: null only with dx, da, db and dc
    void* d_bias;        // gated backward: [B, chunks, D] Acc, the gradient of a_bias from each tile
    void* dh0;           // backward: [N, D] Acc

    void* workspace;     // workspace_bytes(), 16-byte aligned, zeroed once when allocated; one launch at a time

    int64_t length;        // L > 0
    int64_t gradient_stride;  // elements between the rows of dx, da, db, dc, dcb
    uint32_t batch;        // B > 0
    uint32_t channels;     // D > 0
    uint32_t sequences;    // read where offsets is given
    uint32_t y_dtype;      // a DType, that of y
    uint32_t reverse;      // 1: time runs from L - 1 to 0
    uint32_t saved_shift;  // log2 of the length of the backward kernel's tile
    uint32_t chunks;       // ceil(L / length of the kernel's tile)
    uint32_t channel_tiles;  // ceil(D / channels of the kernel's tile)
    Divisor by_columns;      // batch * channel_tiles
    Divisor by_channel_tiles;
    LookBackPlan look_back;

    // The row of `saved_states` that holds the state before a backward tile of an element of the batch.
    QUICK_SSM_BOTH int64_t saved_row(int64_t element, int64_t tile) const {
        return element * ((length + (int64_t{1} << saved_shift) - 1) >> saved_shift) + tile;
    }
};
static_assert(sizeof(Params) == 7 * 32 + 14 * 8 + 2 * 8 + 8 * 4 + 2 * 8 + 24, "mirrored in Rust, without padding");

// Lives at the start of the workspace. The last block of a launch to finish prepares it for the next launch.
struct WorkspaceHeader {
    uint32_t ticket;    // next tile
    uint32_t finished;  // blocks
    uint32_t epoch;     // tag of the last launch
    uint32_t reserved[29];
};
static_assert(sizeof(WorkspaceHeader) == 128, "keeps packets in cache lines of their own");

// The shape of the tree decides in which order carries are combined, and so the rounding: it follows from the
// length and the channels alone. The wider a tensor, the fewer tiles of a column are in flight, for which small groups do; in a
// narrow one states would have to pass through too many hands.
QUICK_SSM_BOTH LookBackPlan default_radix(uint32_t channel_tiles) {
    LookBackPlan plan = {};
    plan.shift[1] = channel_tiles < 8 ? 4 : channel_tiles < 16 ? 2 : 1;
    plan.shift[2] = channel_tiles < 8 ? 6 : channel_tiles < 16 ? 4 : 3;
    return plan;
}

// Fills in the rows of a plan whose shifts are set; returns how many there are, none where there is a single chunk.
QUICK_SSM_BOTH uint32_t place_rows(LookBackPlan& plan, uint32_t chunks) {
    uint32_t rows = 0;
    for (uint32_t level = 0; level <= 2; ++level) {
        plan.begin[level] = rows;
        if (chunks > 1) rows += chunks >> plan.shift[level];
    }
    return rows;
}

// Bytes of workspace for so many rows, of a kernel whose tile has `tile_channels` channels.
QUICK_SSM_BOTH uint64_t workspace_bytes(uint32_t rows, uint32_t batch, uint32_t channel_tiles, uint32_t tile_channels,
                                        uint32_t acc_bytes) {
    return sizeof(WorkspaceHeader) +
           static_cast<uint64_t>(rows) * batch * channel_tiles * tile_channels * (4 * acc_bytes);
}

}  // namespace QUICK_SSM_NAMESPACE
