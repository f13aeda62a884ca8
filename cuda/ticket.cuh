// Hands out tiles in order, the first one to begin with, and leaves the workspace ready for the next launch.
#pragma once

#include "params.cuh"
#include "tile.cuh"

namespace QUICK_SSM_NAMESPACE {

// Where a tile lies.
struct Place {
    uint32_t column;   // of tiles: batch and channels
    uint32_t batch;
    uint32_t channel;  // its first one
    uint32_t chunk;    // of time, counted in the order in which time runs; kNone where no tile is left
    static constexpr uint32_t kNone = 0xffffffffu;
};

// One thread of a block, the owner, draws the tickets and tells the others. Where tiles are dealt in turn every thread counts
// for itself.
template <class Tile, bool kFromEnd>
class Tickets {
public:
    static constexpr bool kInTurn = Tile::kInTurn;
    struct Shared {
        uint32_t ticket;
        uint32_t tag;
    };

    // A barrier has to follow, before the first ticket is read and before the tag is.
    QUICK_SSM_DEVICE Tickets(const Params& params, Shared& shared)
        : header_(static_cast<WorkspaceHeader*>(params.workspace)), shared_(shared) {
        if (kInTurn) {
            drawn_ = block_index();
        } else {
            draw();
        }
        if (owner()) shared_.tag = next_epoch(load_value(&header_->epoch));
    }

    // Not one of those that carry on with the tile as a whole.
    QUICK_SSM_DEVICE static bool owner() { return thread_index() == Tile::kThreads - 1; }

    // What was drawn stays in a register until it is needed, so that nobody waits for it.
    QUICK_SSM_DEVICE void draw() {
        if (kInTurn) {
            drawn_ += grid_blocks();
        } else if (owner()) {
            drawn_ = atomic_increment(&header_->ticket);
        }
    }
    // Tells all threads, behind the next barrier, what was drawn.
    QUICK_SSM_DEVICE void announce() const {
        if (!kInTurn && owner()) shared_.ticket = drawn_;
    }
    QUICK_SSM_DEVICE uint32_t ticket() const { return kInTurn ? drawn_ : shared_.ticket; }
    QUICK_SSM_DEVICE Place next(const Params& params) const { return place(params, ticket()); }
    // The tile of the ticket that some block draws about one turn of all blocks later.
    QUICK_SSM_DEVICE Place later(const Params& params) const { return place(params, ticket() + grid_blocks()); }

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
    QUICK_SSM_DEVICE static Place place(const Params& params, uint32_t ticket) {
        const uint32_t order = params.by_columns.quotient(ticket);
        Place place;
        place.column = ticket - order * params.batch * params.channel_tiles;
        place.batch = params.by_channel_tiles.quotient(place.column);
        place.channel = (place.column - place.batch * params.channel_tiles) * Tile::kChannels;
        place.chunk = order >= params.chunks ? Place::kNone : kFromEnd ? params.chunks - 1 - order : order;
        return place;
    }
    QUICK_SSM_DEVICE static uint32_t next_epoch(uint32_t epoch) { return epoch + 1 ? epoch + 1 : 1; }

    WorkspaceHeader* header_;
    Shared& shared_;
    uint32_t drawn_ = 0;
};

}  // namespace QUICK_SSM_NAMESPACE
