// Feeds a block with tiles, one after the other, and has the inputs of the next one fetched while a tile is computed.
//
// Blocks that all loaded their first tile at once would all compute it at once, and leave memory idle: where more tiles follow,
// they begin one a little after the other.
//
// Fed ahead, a block draws the ticket of its next tile when it begins one, and the inputs come as soon as there is room: all
// of them once the carry of the tile is published, if there is a second stage, else each when it has been read for the last
// time. The block waits for memory and for other blocks at the same time.
//
// In a narrow tensor that would be slow: a ticket that is drawn early is published late, and blocks begin their tiles in
// another order than that of time, so that most of them wait for the slowest. Fed in turn, the blocks share the tiles out
// without tickets, and all go round in the same order. The launch has to see to it that they all run at the same time.
//
// Fed behind, a block draws its ticket when it waits for no other one any more, and loads when nothing of the tile is left
// in its registers. When it has waited for others, the inputs come as far as the second-level cache, those of the ticket that it
// is going to draw, more or less: sooner they would be in the way of what it asks.
#pragma once

#include "stages.cuh"
#include "ticket.cuh"

namespace QUICK_SSM_NAMESPACE {

// When there is room for an input of a tile, in a single stage.
enum class Moment {
    kPublished,  // when the carry of the tile before it is published
    kEntered,    // when it is known what enters the tile before it
    kRead,       // when the tile before it has been read to the end
    kBegun,      // when the tile itself has begun, for inputs that are read after its `entering`
};

// `Pass::fetch(params, shared, place)` fetches what a tile needs beside its inputs, when the tile before it has no use for its
// own any more.
// `Pass::each_input(params, visit)` calls `visit(operand, input, needed, fill)` for every input, and `Pass::moment(input)`
// says when there is room for it.
template <class Pass>
class Feed {
public:
    using Tile = typename Pass::Tile;
    using TileStages = typename Pass::TileStages;
    using TileTickets = typename Pass::TileTickets;
    using Shared = typename Pass::Shared;

    QUICK_SSM_DEVICE Feed(const Params& params, Shared& shared)
        : params_(params), shared_(shared), stages_(shared.stages), tickets_(params, shared.tickets) {
        Pass::each_input(params, [this](const Operand& operand, int input, bool needed, float) {
            needed_ |= static_cast<uint32_t>(needed && operand.data) << input;
        });
        tickets_.announce();
        if (!TileTickets::kInTurn) QUICK_SSM_BARRIER("ticket drawn");
        next_ = tickets_.next(params);
        if (grid_blocks() < params.batch * params.channel_tiles * params.chunks) {
            sleep_for(kSpread * tickets_.ticket() / grid_blocks());
        }
        load(next_, [](Moment moment) { return moment != Moment::kBegun; });
        fetch();
    }

    // The calls for one tile, by all threads, in the order in which they stand here. The first one is false where none is
    // left; `place` and `stages` are of the tile from then on.
    QUICK_SSM_DEVICE bool begin() {
        if (next_.chunk == Place::kNone) return false;
        place_ = next_;
        stages_.advance();
        QUICK_SSM_BARRIER("tile loaded");
        if (!kBehind) tickets_.draw();
        load_at(place_, Moment::kBegun);
        return true;
    }
    // Before the barrier in front of `published`.
    QUICK_SSM_DEVICE void announce() {
        if (!kBehind) tickets_.announce();
    }
    QUICK_SSM_DEVICE void published() {
        if (kBehind) {
            // asked for now: by the time of the prefetch another ticket may have been announced
            later_ = tickets_.later(params_);
        } else {
            next_ = tickets_.next(params_);
            load_at(next_, Moment::kPublished);
            fetch();
        }
    }
    // Before the barrier in front of `entered`.
    QUICK_SSM_DEVICE void entering() {
        if (kVectorised && loads_at(Moment::kBegun)) wait_for_earlier_copies();
    }
    QUICK_SSM_DEVICE void entered() {
        if (kBehind) {
            prefetch();
            tickets_.draw();
        } else {
            load_at(next_, Moment::kEntered);
        }
    }
    QUICK_SSM_DEVICE void read() {
        if (!loads_at(Moment::kRead)) return;
        if (kBehind) tickets_.announce();
        QUICK_SSM_BARRIER("tile read");
        if (kBehind) next_ = tickets_.next(params_);
        load_at(next_, Moment::kRead);
        if (kBehind) fetch();
    }

    QUICK_SSM_DEVICE void finish() { tickets_.finish(); }

    QUICK_SSM_DEVICE const Place& place() const { return place_; }
    QUICK_SSM_DEVICE const TileStages& stages() const { return stages_; }
    QUICK_SSM_DEVICE uint32_t tag() const { return tickets_.tag(); }

private:
    static constexpr bool kBehind = Tile::kFeeding == Feeding::kBehind;
    static constexpr bool kVectorised = TileStages::kVectorised;
    static constexpr uint32_t kSpread = 2000;  // nanoseconds from the first block's beginning to the last one's

    QUICK_SSM_BOTH static constexpr Moment moment(int input) {
        return kBehind ? Moment::kRead : Tile::kStages == 2 ? Moment::kPublished : Pass::moment(input);
    }
    QUICK_SSM_BOTH static constexpr bool loads_at(Moment when) {
        for (int input = 0; input < TileStages::kInputs; ++input) {
            if (moment(input) == when) return true;
        }
        return false;
    }

    QUICK_SSM_DEVICE bool needs(int input) const { return (needed_ >> input & 1) != 0; }

    QUICK_SSM_DEVICE void load_at(const Place& place, Moment when) {
        if (loads_at(when)) load(place, [when](Moment moment) { return moment == when; });
        // so that `entering` can tell what was loaded when the tile began from what was loaded since
        if (kVectorised && loads_at(Moment::kBegun)) group_copies();
    }
    template <class Wanted>
    QUICK_SSM_DEVICE void load(const Place& place, const Wanted& wanted) {
        if (place.chunk == Place::kNone || !TileStages::loads()) return;
        const typename TileStages::Turn turn = TileStages::turn(params_, place);
        Pass::each_input(params_, [&](const Operand& operand, int input, bool, float fill) {
            if (wanted(moment(input))) stages_.load(operand, input, needs(input), fill, turn);
        });
    }
    QUICK_SSM_DEVICE void fetch() {
        if (next_.chunk != Place::kNone) Pass::fetch(params_, shared_, next_);
    }
    QUICK_SSM_DEVICE void prefetch() const {
        if (later_.chunk == Place::kNone || !TileStages::loads()) return;
        Pass::each_input(params_, [&](const Operand& operand, int input, bool, float) {
            if (needs(input)) stages_.prefetch(params_, operand, later_);
        });
    }

    const Params& params_;
    Shared& shared_;
    TileStages stages_;
    TileTickets tickets_;
    Place place_, next_, later_;
    uint32_t needed_ = 0;  // a bit per input: it is there, and the launch reads it
};

}  // namespace QUICK_SSM_NAMESPACE
