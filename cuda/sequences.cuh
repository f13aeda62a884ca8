// Packed sequences: which steps of a tile are the first or the last of their sequence.
#pragma once

#include "rows.cuh"

namespace QUICK_SSM_NAMESPACE {

// In shared memory, per step of the tile: the sequence that starts or ends there, plus one; 0 for none.
template <class Tile, bool kPacked>
struct SequenceMarks {
    static constexpr int kSize = kPacked ? Tile::kLength : 1;
    SharedArray<uint32_t, kSize> first;
    SharedArray<uint32_t, kSize> last;
};

// Boundaries in the order in which time runs.
class Boundaries {
public:
    QUICK_SSM_DEVICE explicit Boundaries(const Params& params) : params_(params) {}

    QUICK_SSM_DEVICE int64_t operator[](uint32_t index) const {
        return params_.reverse ? params_.length - load_value(params_.offsets + (params_.sequences - index))
                               : load_value(params_.offsets + index);
    }
    // The sequence that starts at a boundary, plus one.
    QUICK_SSM_DEVICE uint32_t sequence(uint32_t index) const {
        return params_.reverse ? params_.sequences - index : index + 1;
    }

private:
    const Params& params_;
};

// Called by all threads. Marks the sequences of the tile that begins at `time`. A sequence without steps belongs
// to the tile in which it lies: its row of `to` becomes that of `from`.
template <class Tile, class Rows>
QUICK_SSM_DEVICE void mark_sequences(const Params& params, int64_t time, const Rows& rows, const void* from, void* to,
                                     SequenceMarks<Tile, true>& marks) {
    using Acc = typename Tile::Acc;
    const Boundaries boundary(params);
    const uint32_t thread = static_cast<uint32_t>(thread_index());
    for (int i = thread_index(); i < Tile::kLength; i += Tile::kThreads) marks.first[i] = marks.last[i] = 0;

    // The first boundary not before the tile: all threads test one each, and keep the stretch it must lie in.
    // There is at least one boundary, so that the marks are clear for all threads afterwards.
    uint32_t low = 0, high = params.sequences + 1;
    while (low < high) {
        const uint32_t step = (high - low + Tile::kThreads - 1) / Tile::kThreads;
        const uint32_t pivot = low + (thread + 1) * step - 1;
        const bool before = pivot < high && boundary[pivot] < time;
        const uint32_t count = static_cast<uint32_t>(QUICK_SSM_BARRIER_COUNT("boundary search", before));
        low += count * step;
        high = high < low + step - 1 ? high : low + step - 1;
    }

    const bool last_tile = time + Tile::kLength >= params.length;
    const int64_t end = last_tile ? params.length : time + Tile::kLength;
    for (uint32_t index = low + thread; index <= params.sequences; index += Tile::kThreads) {
        const int64_t here = boundary[index];
        if (here > end) break;
        if (index > 0 && here > time && boundary[index - 1] < here) {
            marks.last[static_cast<int>(here - time) - 1] = boundary.sequence(index - 1);
        }
        if (index == params.sequences) break;
        if (boundary[index + 1] > here) {
            if (here < end) marks.first[static_cast<int>(here - time)] = boundary.sequence(index);
        } else if (to && (here < end || last_tile)) {
            const int64_t row = boundary.sequence(index) - 1;
            for (int slot = 0; slot < Tile::kChannels; ++slot) {
                const uint32_t channel = rows.slot_channel(slot);
                if (channel >= params.channels) continue;
                store_value(static_cast<Acc*>(to) + row * params.channels + channel,
                            rows.load_state(from, row, channel));
            }
        }
    }
    QUICK_SSM_BARRIER("marks written");
}

// The marks of one thread's segment.
template <class Tile, bool kPacked>
struct SegmentMarks {
    uint32_t first = 0;  // a bit per step
    uint32_t last = 0;

    QUICK_SSM_DEVICE void read(SequenceMarks<Tile, kPacked>& marks, int segment) {
        QUICK_SSM_UNROLL
        for (int s = 0; s < Tile::kSteps; ++s) {
            first |= static_cast<uint32_t>(marks.first[segment * Tile::kSteps + s] != 0) << s;
            last |= static_cast<uint32_t>(marks.last[segment * Tile::kSteps + s] != 0) << s;
        }
    }
    QUICK_SSM_DEVICE bool starts(int s) const { return kPacked && (first >> s & 1); }
    QUICK_SSM_DEVICE bool ends(int s) const { return kPacked && (last >> s & 1); }
    QUICK_SSM_DEVICE bool any() const { return kPacked && (first | last) != 0; }
};

}  // namespace QUICK_SSM_NAMESPACE
