// How a tile gets the state that enters it from the tiles before it, in one launch.
//
// Tiles are numbered chunk-major and handed out by a ticket counter, so all predecessors of a tile have started,
// and each publishes its carry before it waits. The carries form a tree: the last tile of a group publishes the
// carry of the whole group one level up, and the last tile of a group of the highest level the state itself. A
// tile combines the last state, whole groups, and tiles of its own group, always in this order: which of them
// arrived first has no influence on the result, and states pass from hand to hand once per 2^shift[levels] tiles.
#pragma once

#include "carry.cuh"
#include "params.cuh"
#include "tuning.cuh"

namespace QUICK_SSM_NAMESPACE {

template <class Acc>
struct TaggedCarry {
    static constexpr int kPackets = sizeof(Acc) / 4;

    QUICK_SSM_DEVICE static uint64_t element(uint32_t word, uint32_t tag) {
        return static_cast<uint64_t>(tag) << 32 | word;
    }
    QUICK_SSM_DEVICE static void store(Packet* packets, const Carry<Acc>& carry, uint32_t tag) {
        if constexpr (sizeof(Acc) == 4) {
            store_packet(packets, {element(float_to_bits(carry.gate), tag), element(float_to_bits(carry.state), tag)});
        } else {
            uint32_t low, high;
            double_to_words(carry.gate, low, high);
            store_packet(packets, {element(low, tag), element(high, tag)});
            double_to_words(carry.state, low, high);
            store_packet(packets + 1, {element(low, tag), element(high, tag)});
        }
    }
    QUICK_SSM_DEVICE static bool load(const Packet* packets, Carry<Acc>& carry, uint32_t tag) {
        uint32_t word[2 * kPackets];
        bool complete = true;
        QUICK_SSM_UNROLL
        for (int i = 0; i < kPackets; ++i) {
            const Packet packet = load_packet(packets + i);
            QUICK_SSM_UNROLL
            for (int j = 0; j < 2; ++j) {
                complete &= static_cast<uint32_t>(packet.element[j] >> 32) == tag;
                word[2 * i + j] = static_cast<uint32_t>(packet.element[j]);
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

template <class Tile, bool kCuts>
class LookBack {
public:
    using Acc = typename Tile::Acc;
    using Operator = CarryOperator<Acc, kCuts>;
    struct Shared {
        SharedArray<Carry<Acc>, Tile::kThreads> parts;
    };

    QUICK_SSM_DEVICE LookBack(const Params& params, Shared& shared, uint32_t tag, uint32_t column, uint32_t chunk)
        : plan_(params.look_back), shared_(shared), tag_(tag), chunk_(chunk),
          columns_(params.batch * params.channel_tiles), column_(column),
          last_(chunk + 1 == params.chunks),
          packets_(reinterpret_cast<Packet*>(static_cast<char*>(params.workspace) + sizeof(WorkspaceHeader))) {}

    // Called by the threads that hold the tile's carry, as early as it is known. That of chunk 0 takes up what
    // enters there, so that no other tile has to know it.
    QUICK_SSM_DEVICE void publish(int slot, Carry<Acc>& own, Acc initial) const {
        if (chunk_ == 0) own = {0, Operator::apply(own, initial)};
        if (!last_ && !ends_group(1)) store(plan_.begin[0] + chunk_, slot, own);
    }

    // Called by all threads, after `publish`. The first kChannels threads hold the tile's carry and what enters
    // chunk 0, and get what enters this tile.
    QUICK_SSM_DEVICE Acc entering(const Carry<Acc>& own, Acc initial) const {
        const int thread = thread_index();
        const bool holder = thread < Tile::kChannels;
        if (chunk_ == 0 && last_) return initial;
        for (uint32_t level = 1; level < plan_.levels && ends_group(level) && !last_; ++level) {
            const Carry<Acc> before = gather(level);
            if (holder) {
                store(plan_.begin[level] + (chunk_ >> plan_.shift[level]), thread, Operator::combine(before, own));
            }
            QUICK_SSM_BARRIER("parts read");
        }
        // The state comes last, when everything that it is to pass through is at hand: states pass from hand to hand.
        const Carry<Acc> before = gather(plan_.levels);
        const uint32_t states = chunk_ >> plan_.shift[plan_.levels];
        Acc result = chunk_ == 0 ? initial : 0;
        if (holder) {
            if (states != 0) result = state(plan_.begin[plan_.levels] + states - 1, thread);
            result = Operator::apply(before, result);
            if (ends_group(plan_.levels) && !last_) {
                store(plan_.begin[plan_.levels] + states, thread, {0, Operator::apply(own, result)});
            }
        }
        return result;
    }

private:
    QUICK_SSM_DEVICE bool ends_group(uint32_t level) const {
        return ((chunk_ + 1) & ((1u << plan_.shift[level]) - 1)) == 0;
    }
    QUICK_SSM_DEVICE Packet* address(uint32_t row, int slot) const {
        return packets_ + ((static_cast<uint64_t>(row) * columns_ + column_) * Tile::kChannels + slot) *
                              TaggedCarry<Acc>::kPackets;
    }
    QUICK_SSM_DEVICE void store(uint32_t row, int slot, const Carry<Acc>& carry) const {
        TaggedCarry<Acc>::store(address(row, slot), carry, tag_);
    }
    // Complete groups of `level` between the last boundary of the level above and this chunk.
    QUICK_SSM_DEVICE uint32_t groups(uint32_t level) const {
        return (chunk_ >> plan_.shift[level]) & ((1u << (plan_.shift[level + 1] - plan_.shift[level])) - 1);
    }
    // Waits for a state.
    QUICK_SSM_DEVICE Acc state(uint32_t row, int slot) const {
        Carry<Acc> carry;
        while (!TaggedCarry<Acc>::load(address(row, slot), carry, tag_)) pause();
        return carry.state;
    }

    // The rows of the predecessors over the levels below `levels`, from the oldest: runs of groups.
    struct Predecessors {
        uint32_t end[kMaxLevels];     // item behind each run
        uint32_t offset[kMaxLevels];  // of a run's rows from its items

        QUICK_SSM_DEVICE uint32_t items() const { return end[kMaxLevels - 1]; }
        QUICK_SSM_DEVICE uint32_t row(uint32_t item) const {
            uint32_t from = offset[kMaxLevels - 1];
            QUICK_SSM_UNROLL
            for (int run = kMaxLevels - 2; run >= 0; --run) from = item < end[run] ? offset[run] : from;
            return item + from;
        }
    };
    QUICK_SSM_DEVICE Predecessors predecessors(uint32_t levels) const {
        Predecessors all;
        uint32_t items = 0;
        QUICK_SSM_UNROLL
        for (uint32_t run = 0; run < kMaxLevels; ++run) {
            all.offset[run] = 0;
            if (run < levels) {
                const uint32_t level = levels - 1 - run, count = groups(level);
                all.offset[run] = plan_.begin[level] + (chunk_ >> plan_.shift[level]) - count - items;
                items += count;
            }
            all.end[run] = items;
        }
        return all;
    }

    // The combined carry of the predecessors; only the first kChannels threads get it. Each part of the block takes a
    // run of them, the first one all where they are few.
    QUICK_SSM_DEVICE Carry<Acc> gather(uint32_t levels) const {
        const Predecessors all = predecessors(levels);
        const uint32_t items = all.items();
        const bool shared_out = Tile::kParts > 1 && items > Tile::kPoll;
        const int slot = thread_index() % Tile::kChannels;
        const uint32_t part = thread_index() / Tile::kChannels;
        uint32_t item = 0, end = part == 0 ? items : 0;
        if (shared_out) item = items * part / Tile::kParts, end = items * (part + 1) / Tile::kParts;
        Carry<Acc> combined = Operator::nothing();
        for (; item < end; item += Tile::kPoll) {
            Carry<Acc> carries[Tile::kPoll];
            for (;;) {
                bool complete = true;
                QUICK_SSM_UNROLL
                for (int i = 0; i < Tile::kPoll; ++i) {
                    carries[i] = Operator::nothing();
                    if (item + i < end) {
                        complete &= TaggedCarry<Acc>::load(address(all.row(item + i), slot), carries[i], tag_);
                    }
                }
                if (complete) break;
                pause();
            }
            QUICK_SSM_UNROLL
            for (int i = 0; i < Tile::kPoll; ++i) combined = Operator::combine(combined, carries[i]);
        }
        if (shared_out) {
            shared_.parts[thread_index()] = combined;
            QUICK_SSM_BARRIER("parts written");
            if (part == 0) {
                for (int other = 1; other < Tile::kParts; ++other) {
                    combined = Operator::combine(combined, shared_.parts[other * Tile::kChannels + slot]);
                }
            }
        }
        return combined;
    }

    const LookBackPlan& plan_;
    Shared& shared_;
    uint32_t tag_;
    uint32_t chunk_;
    uint32_t columns_;
    uint32_t column_;
    bool last_;
    Packet* packets_;
};

}  // namespace QUICK_SSM_NAMESPACE
