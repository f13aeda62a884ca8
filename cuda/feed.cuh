// Feeds a block with tiles, one after the other, and has the inputs of the next one fetched while a tile is computed.
//
// With two stages they come to the other one; the block waits for memory and for other blocks at the same time. With a
// single one they come as far as the second-level cache, and there is room for a larger tile or for more blocks. That is
// better where blocks wait for one another most of the time, as in a narrow tensor, for what they wait for grows with the
// number of tiles, and where a form has many inputs.
#pragma once

#include "stages.cuh"
#include "ticket.cuh"

namespace QUICK_SSM_NAMESPACE {

// `Pass::each_input(params, visit)` calls `visit(operand, input, needed, fill)` for every input.
template <class Pass>
class Feed {
public:
    using Tile = typename Pass::Tile;
    using TileStages = typename Pass::TileStages;
    using TileTickets = typename Pass::TileTickets;
    // Whether those who ask for the states of other tiles fetch inputs as well.
    static constexpr bool kAskersLoad = Tile::kLoaders == Tile::kThreads;

    template <class Shared>
    QUICK_SSM_DEVICE Feed(const Params& params, Shared& shared)
        : params_(params), stages_(shared.stages), tickets_(params, shared.tickets) {
        Pass::each_input(params, [this](const Operand& operand, int input, bool needed, float) {
            needed_ |= static_cast<uint32_t>(needed && operand.data) << input;
        });
        tickets_.announce();
        QUICK_SSM_BARRIER("ticket drawn");
        next_ = tickets_.next(params);
        load();
    }

    // The calls for one tile, by all threads, in the order in which they stand here. The first one is false where none is
    // left; `place` and `stages` are of the tile from then on.
    QUICK_SSM_DEVICE bool begin() {
        if (next_.chunk == Place::kNone) return false;
        place_ = next_;
        stages_.advance();
        QUICK_SSM_BARRIER("tile loaded");
        // The tile is published before it waits for others. What is drawn here is published behind that wait: were it
        // drawn any earlier, each block would wait for the one that has drawn just before it.
        if (kAhead) tickets_.draw();
        return true;
    }
    // Before the barrier in front of `fetch`.
    QUICK_SSM_DEVICE void announce() {
        if (kAhead) tickets_.announce();
    }
    // Once the carry of the tile is published.
    QUICK_SSM_DEVICE void fetch() {
        if (kAhead) {
            next_ = tickets_.next(params_);
            load();
        } else {
            prefetch(tickets_.later(params_));
        }
    }
    // When the block waits for no other one any more.
    QUICK_SSM_DEVICE void entered() {
        if (!kAhead) tickets_.draw();
    }
    QUICK_SSM_DEVICE void end() {
        if (kAhead) return;
        tickets_.announce();
        QUICK_SSM_BARRIER("tile read");
        next_ = tickets_.next(params_);
        load();
    }

    QUICK_SSM_DEVICE void finish() { tickets_.finish(); }

    QUICK_SSM_DEVICE const Place& place() const { return place_; }
    QUICK_SSM_DEVICE const TileStages& stages() const { return stages_; }
    QUICK_SSM_DEVICE uint32_t tag() const { return tickets_.tag(); }

private:
    static constexpr bool kAhead = Tile::kStages == 2;

    QUICK_SSM_DEVICE bool needs(int input) const { return (needed_ >> input & 1) != 0; }

    QUICK_SSM_DEVICE void load() {
        if (next_.chunk == Place::kNone || !TileStages::loads()) return;
        const typename TileStages::Turn turn = TileStages::turn(params_, next_);
        Pass::each_input(params_, [&](const Operand& operand, int input, bool, float fill) {
            stages_.load(operand, input, needs(input), fill, turn);
        });
    }
    QUICK_SSM_DEVICE void prefetch(const Place& later) const {
        if (later.chunk == Place::kNone || !TileStages::loads()) return;
        Pass::each_input(params_, [&](const Operand& operand, int input, bool, float) {
            if (needs(input)) stages_.prefetch(params_, operand, later);
        });
    }

    const Params& params_;
    TileStages stages_;
    TileTickets tickets_;
    Place place_, next_;
    uint32_t needed_ = 0;  // a bit per input: it is there, and the launch reads it
};

}  // namespace QUICK_SSM_NAMESPACE
