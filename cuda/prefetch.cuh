// Brings the inputs of a tile that some block will soon take to L2, so that memory keeps working while blocks wait
// for one another. Which block takes the tile does not matter, nor whether the guess is right.
#pragma once

#include "params.cuh"
#include "tile.cuh"

namespace QUICK_SSM_NAMESPACE {

// How far ahead, in turns of the whole grid.
#ifndef QUICK_SSM_PREFETCH_TURNS
#define QUICK_SSM_PREFETCH_TURNS 1 / 2
#endif
QUICK_SSM_DEVICE uint32_t ticket_to_prefetch(uint32_t ticket) {
    return ticket + grid_blocks() * QUICK_SSM_PREFETCH_TURNS;
}

// For operands with neighbouring channels next to each other.
template <class Tile>
QUICK_SSM_DEVICE void prefetch(const Params& params, const Operand& operand, uint32_t column, uint32_t chunk) {
    using T = typename Tile::Value;
    constexpr int kLine = 128;
    constexpr int kLines = (Tile::kChannels * static_cast<int>(sizeof(T)) + kLine - 1) / kLine;  // of one step
    if (!operand.data) return;
    const T* batch = static_cast<const T*>(operand.data) + column / params.channel_tiles * operand.batch_stride;
    QUICK_SSM_UNROLL
    for (int i = thread_index(); i < Tile::kLength * kLines; i += Tile::kThreads) {
        const int64_t time = static_cast<int64_t>(chunk) * Tile::kLength + i / kLines;
        const uint32_t channel = column % params.channel_tiles * Tile::kChannels +
                                 i % kLines * (kLine / static_cast<uint32_t>(sizeof(T)));
        if (time >= params.length || channel >= params.channels) continue;
        prefetch_line(batch + (params.reverse ? params.length - 1 - time : time) * operand.time_stride + channel);
    }
}

}  // namespace QUICK_SSM_NAMESPACE
