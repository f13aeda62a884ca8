// The sums of rows over time, chunk by chunk: y_n is the sum of the x_t of chunk n, [chunks, D] from [L, D]. The gradient of a
// bias is such a sum. In which order numbers are added follows from the length alone.
#pragma once

#include "rows.cuh"
#include "tuning.cuh"

namespace QUICK_SSM_NAMESPACE {

template <class T>
struct Sum {
    using Arguments = Params;
    using Tile = typename TileOf<T, Width::kWide, Scan::kSum>::Shape;
    using Acc = typename Tile::Acc;
    using TileRows = Rows<Tile, false>;

    struct Shared {
        SharedArray<Acc, Tile::kSegments * Tile::kChannels> segments;
    };

    QUICK_SSM_DEVICE static void run(const Params& params) {
        QUICK_SSM_SHARED(Shared, shared);
        const uint32_t tiles = params.chunks * params.channel_tiles;
        for (uint32_t index = block_index(); index < tiles; index += grid_blocks()) {
            Place place = {};
            place.chunk = params.by_channel_tiles.quotient(index);
            place.channel = (index - place.chunk * params.channel_tiles) * Tile::kChannels;
            tile(params, shared, place);
            QUICK_SSM_BARRIER("sums read");
        }
    }

private:
    QUICK_SSM_DEVICE static void tile(const Params& params, Shared& shared, const Place& place) {
        const TileRows rows(params, place);
        const T* data = static_cast<const T*>(params.x.data);
        Acc sums[Tile::kVector] = {};
        rows.each(
            params.x, [=](int64_t index) { return decode_value(load_value(data + index)); },
            [&](int, int v, Acc value) { sums[v] += value; });
        QUICK_SSM_UNROLL
        for (int v = 0; v < Tile::kVector; ++v) shared.segments[rows.entry(v)] = sums[v];
        QUICK_SSM_BARRIER("sums written");
        const int slot = thread_index();
        const uint32_t channel = rows.slot_channel(slot);
        if (slot >= Tile::kChannels || channel >= params.channels) return;
        Acc sum = 0;
        QUICK_SSM_UNROLL
        for (int i = 0; i < Tile::kSegments; ++i) sum += shared.segments[i * Tile::kChannels + slot];
        store_as(params.y, params.y_dtype, static_cast<int64_t>(place.chunk) * params.channels + channel, sum);
    }
};

}  // namespace QUICK_SSM_NAMESPACE
