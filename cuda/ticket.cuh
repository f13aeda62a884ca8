// Hands out tiles in order, the first one to begin with, and leaves the workspace ready for the next launch.
#pragma once

#include "params.cuh"

namespace QUICK_SSM_NAMESPACE {

// Where a tile lies.
struct alignas(16) Place {
    uint32_t column;   // of tiles: batch and channels
    uint32_t batch;
    uint32_t channel;  // its first one
    uint32_t chunk;    // of time, counted in the order in which time runs; kNone where no tile is left
    static constexpr uint32_t kNone = 0xffffffffu;
};

// One thread of a block, the owner, draws the tickets and tells the others what they mean, so that only one divides.
template <class Tile, bool kFromEnd>
class Tickets {
public:
    struct Shared {
        Place place;
        uint32_t tag;
    };

    // A barrier has to follow.
    QUICK_SSM_DEVICE Tickets(const Params& params, Shared& shared)
        : header_(static_cast<WorkspaceHeader*>(params.workspace)), shared_(shared) {
        draw();
        if (owner()) shared_.tag = next_epoch(load_value(&header_->epoch));
    }

    // Not one of those that carry on with the tile as a whole.
    QUICK_SSM_DEVICE static bool owner() { return thread_index() == Tile::kThreads - 1; }

    // The next tile is loaded while this one is computed, but it is published only after it. So a block draws when what
    // enters its tile is known, for the tile after the next, and for the first time when its first tile is there: were two
    // tiles drawn together, each block would wait for the one that has drawn just before it. What was drawn stays in a
    // register until it is needed, so that nobody waits for it.
    QUICK_SSM_DEVICE void draw() {
        if (owner()) drawn_ = atomic_increment(&header_->ticket);
    }
    // What the owner has drawn. It tells all threads, behind the next barrier.
    QUICK_SSM_DEVICE Place announce(const Params& params) const {
        const uint32_t columns = params.batch * params.channel_tiles;
        Place place = {drawn_ % columns, 0, 0, drawn_ / columns};
        place.batch = place.column / params.channel_tiles;
        place.channel = (place.column - place.batch * params.channel_tiles) * Tile::kChannels;
        if (place.chunk >= params.chunks) {
            place.chunk = Place::kNone;
        } else if (kFromEnd) {
            place.chunk = params.chunks - 1 - place.chunk;
        }
        shared_.place = place;
        return place;
    }
    QUICK_SSM_DEVICE Place next() const { return shared_.place; }
    // Marks the packets of this launch: those of earlier launches stay where they are. Fresh memory has tag 0.
    QUICK_SSM_DEVICE uint32_t tag() const { return shared_.tag; }

    QUICK_SSM_DEVICE void finish() {
        if (!owner()) return;
        if (atomic_increment(&header_->finished) == grid_blocks() - 1) {
            store_value(&header_->ticket, 0u);
            store_value(&header_->finished, 0u);
            store_value(&header_->epoch, shared_.tag);
        }
    }

private:
    QUICK_SSM_DEVICE static uint32_t next_epoch(uint32_t epoch) { return epoch + 1 ? epoch + 1 : 1; }

    WorkspaceHeader* header_;
    Shared& shared_;
    uint32_t drawn_ = 0;
};

}  // namespace QUICK_SSM_NAMESPACE
