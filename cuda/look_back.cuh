// How a tile gets the state that enters it from the tiles before it, in one launch.
//
// Tiles are numbered chunk-major and handed out by a ticket counter, so all predecessors of a tile have started,
// and each publishes its carry before it waits. The carries form a tree: the last tile of a group publishes the
// carry of the whole group in place of its own, and the last tile of a group of groups the state itself. A tile
// combines the last state, the groups after it, and the tiles of its own group, always in this order: which of them
// arrived first has no influence on the result, and states pass from hand to hand once per 2^shift[2] tiles.
#pragma once

#include "carry.cuh"
#include "params.cuh"
#include "tuning.cuh"

namespace QUICK_SSM_NAMESPACE {

template <class Acc>
struct TaggedCarry {
    static constexpr int kPackets = sizeof(Acc) / 4;

    QUICK_SSM_DEVICE static void store(Packet* packets, const Carry<Acc>& carry, uint32_t tag) {
        if constexpr (sizeof(Acc) == 4) {
            store_packet(packets, {{{float_to_bits(carry.gate), tag}, {float_to_bits(carry.state), tag}}});
        } else {
            uint32_t low, high;
            double_to_words(carry.gate, low, high);
            store_packet(packets, {{{low, tag}, {high, tag}}});
            double_to_words(carry.state, low, high);
            store_packet(packets + 1, {{{low, tag}, {high, tag}}});
        }
    }
    struct Packets {
        Packet of[kPackets];
    };
    QUICK_SSM_DEVICE static Packets ask(const Packet* from) {
        Packets packets;
        QUICK_SSM_UNROLL
        for (int i = 0; i < kPackets; ++i) packets.of[i] = load_packet(from + i);
        return packets;
    }
    // Whether they have come.
    QUICK_SSM_DEVICE static bool read(const Packets& packets, Carry<Acc>& carry, uint32_t tag) {
        uint32_t word[2 * kPackets];
        bool complete = true;
        QUICK_SSM_UNROLL
        for (int i = 0; i < kPackets; ++i) {
            QUICK_SSM_UNROLL
            for (int j = 0; j < 2; ++j) {
                complete &= packets.of[i].element[j].tag == tag;
                word[2 * i + j] = packets.of[i].element[j].word;
            }
        }
        if constexpr (sizeof(Acc) == 4) {
            carry = {bits_to_float(word[0]), bits_to_float(word[1])};
        } else {
            carry = {words_to_double(word[0], word[1]), words_to_double(word[2], word[3])};
        }
        return complete;
    }
};

// Two parts of a block have a share in it, of kChannels threads each, and a thread of each for every channel: the holders find
// out what the tile does to a state, and what the tiles before it in its group do; the askers wait for groups and states.
// Threads of one warp may be of both; each of them makes progress on its own.
template <class Tile, bool kCuts>
class LookBack {
public:
    using Acc = typename Tile::Acc;
    using Operator = CarryOperator<Acc, kCuts>;
    using Tagged = TaggedCarry<Acc>;

    // What enters a tile, of every slot: the state that enters its group, and what the tiles before it there do to that.
    struct Shared {
        SharedArray<Acc, Tile::kChannels> states;
        SharedArray<Carry<Acc>, Tile::kChannels> tiles;
    };
    QUICK_SSM_DEVICE static Acc entering(Shared& shared, int slot) {
        return Operator::apply(shared.tiles[slot], shared.states[slot]);
    }

    QUICK_SSM_DEVICE LookBack(const Params& params, uint32_t tag, uint32_t column, uint32_t chunk)
        : plan_(params.look_back), tag_(tag), chunk_(chunk), last_(chunk + 1 == params.chunks),
          row_stride_(static_cast<uint64_t>(params.batch * params.channel_tiles) * (Tile::kChannels * Tagged::kPackets)),
          packets_(reinterpret_cast<Packet*>(static_cast<char*>(params.workspace) + sizeof(WorkspaceHeader)) +
                   static_cast<uint64_t>(column) * (Tile::kChannels * Tagged::kPackets) + slot() * Tagged::kPackets),
          run_(run(holder() ? 0 : 1)) {}

    QUICK_SSM_DEVICE static bool holder() { return part() == 0; }
    QUICK_SSM_DEVICE static bool asker() { return part() == 1; }
    QUICK_SSM_DEVICE static int slot() { return thread_index() % Tile::kChannels; }

    // Called by the holders as early as the tile's carry is known. That of chunk 0 takes up what enters there, so that no
    // other tile has to know it.
    QUICK_SSM_DEVICE void publish(Carry<Acc>& own, Acc initial) {
        if (chunk_ == 0) own = {0, Operator::apply(own, initial)};
        if (last_ || ends_group(2)) return;
        if (!ends_group(1)) {
            store(plan_.begin[0] + chunk_, own);
        } else {
            while (!run_.complete(*this)) pause();
            store(plan_.begin[1] + (chunk_ >> plan_.shift[1]), Operator::combine(run_.combined, own));
        }
    }
    // Called by the holders when it is known what enters the tile: the last tile of a group of groups publishes the state.
    QUICK_SSM_DEVICE void publish_state(const Carry<Acc>& own, Acc entering) const {
        if (!last_ && ends_group(2)) store(plan_.begin[2] + states(), {0, Operator::apply(own, entering)});
    }

    // Called by holders and askers before `publish`, when they have read from shared memory what they combine: what is read
    // after it would come no sooner than what was asked for.
    QUICK_SSM_DEVICE void ask() {
        if (holder() ? run_.next >= run_.end : chunk_ >> plan_.shift[1] == 0) return;
        run_.ask(*this);
        if (asker()) ask_state();
    }
    // Called by all after that: finds what enters the tile, `initial` if it is the first one. A barrier has to follow.
    QUICK_SSM_DEVICE void wait(Shared& shared, Acc initial) {
        if (holder()) {
            while (!run_.complete(*this)) pause();
            shared.tiles[slot()] = run_.combined;
        }
        if (asker()) {
            // The state is asked for beside the groups: states pass from hand to hand, and every hop counts.
            Carry<Acc> state = {0, 0};
            bool come = states() == 0;
            while (!run_.complete(*this) | !(come = come || state_has_come(state))) pause();
            shared.states[slot()] = chunk_ == 0 ? initial : Operator::apply(run_.combined, state.state);
        }
    }

private:
    static_assert(Tile::kThreads >= 2 * Tile::kChannels, "two parts");

    QUICK_SSM_DEVICE static int part() { return thread_index() / Tile::kChannels; }
    QUICK_SSM_DEVICE bool ends_group(uint32_t level) const {
        return ((chunk_ + 1) & ((1u << plan_.shift[level]) - 1)) == 0;
    }
    // States that were published before this tile.
    QUICK_SSM_DEVICE uint32_t states() const { return chunk_ >> plan_.shift[2]; }
    QUICK_SSM_DEVICE Packet* packets(uint32_t row) const {
        return packets_ + row * row_stride_;
    }
    QUICK_SSM_DEVICE void store(uint32_t row, const Carry<Acc>& carry) const {
        Tagged::store(packets(row), carry, tag_);
    }

    // Asks again where it has not.
    QUICK_SSM_DEVICE bool state_has_come(Carry<Acc>& state) {
        const bool come = Tagged::read(state_, state, tag_);
        if (!come) ask_state();
        return come;
    }
    QUICK_SSM_DEVICE void ask_state() {
        state_ = Tagged::ask(packets(states() == 0 ? 0 : plan_.begin[2] + states() - 1));
    }

    // The tiles before this one in its group, or the groups before that one in theirs: rows of packets.
    struct Run {
        uint32_t next, end;
        Carry<Acc> combined;  // of the rows before `next`
        typename Tagged::Packets asked[Tile::kPoll];

        // Asks for something always: a branch would wait for what was asked for before it.
        QUICK_SSM_DEVICE void ask(const LookBack& from) {
            QUICK_SSM_UNROLL
            for (uint32_t i = 0; i < Tile::kPoll; ++i) {
                asked[i] = Tagged::ask(from.packets(next + i < end ? next + i : end - 1));
            }
        }
        // Whether all have come. Asks for what is missing.
        QUICK_SSM_DEVICE bool complete(const LookBack& from) {
            if (next >= end) return true;
            Carry<Acc> carries[Tile::kPoll];
            bool come = true;
            QUICK_SSM_UNROLL
            for (uint32_t i = 0; i < Tile::kPoll; ++i) {
                const bool wanted = next + i < end;
                come &= Tagged::read(asked[i], carries[i], from.tag_) || !wanted;
                if (!wanted) carries[i] = Operator::nothing();
            }
            if (come) {
                QUICK_SSM_UNROLL
                for (uint32_t i = 0; i < Tile::kPoll; ++i) combined = Operator::combine(combined, carries[i]);
                next += Tile::kPoll;
                if (next >= end) return true;
            }
            ask(from);
            return false;
        }
    };
    QUICK_SSM_DEVICE Run run(uint32_t level) const {
        const uint32_t before = chunk_ >> plan_.shift[level];
        Run run;
        run.end = plan_.begin[level] + before;
        run.next = run.end - (before & ((1u << (plan_.shift[level + 1] - plan_.shift[level])) - 1));
        run.combined = Operator::nothing();
        return run;
    }

    const LookBackPlan& plan_;
    uint32_t tag_;
    uint32_t chunk_;
    bool last_;
    uint64_t row_stride_;  // packets
    Packet* packets_;      // of this thread's slot, in the first row
    Run run_;              // of a holder's tiles, of an asker's groups
    typename Tagged::Packets state_;
};

}  // namespace QUICK_SSM_NAMESPACE
