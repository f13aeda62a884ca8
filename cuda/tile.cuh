// The shape of a tile: how threads divide its time steps and channels among them.
#pragma once

#include "element.cuh"

namespace QUICK_SSM_NAMESPACE {

// Of the tensors that a kernel is made for. In a narrow one, of few channels, hardly any tiles are independent: most of
// those that are computed at a time follow one another, and their number is what the look-back has to pass. A large tile is
// one of a wide tensor, of more channels, for cards whose blocks may have so much shared memory; the bits are those of a wide
// one.
enum class Width { kWide, kNarrow, kLarge };

// How a block comes by its tiles and their inputs; `feed.cuh` tells of each.
enum class Feeding { kAhead, kInTurn, kBehind };

// A thread owns `kSteps` consecutive steps of `kVector` channels, its segment. `kLanes` threads side by side cover the
// channels, `kSegments` rows of them the time. Results depend on kSteps and kSegments, not on the rest.
template <class T, Width kWidth, int kVector_, int kSteps_, int kLanes_, int kSegments_, int kBlocks_, int kPoll_, int kStages_,
          Feeding kFeeding_>
struct TileShape {
    using Value = T;
    using Acc = AccOf<T>;
    static constexpr int kVector = kVector_;
    static constexpr int kSteps = kSteps_;
    static constexpr int kLanes = kLanes_;
    static constexpr int kSegments = kSegments_;
    static constexpr int kBlocks = kBlocks_;  // blocks per multiprocessor that registers must leave room for
    static constexpr int kPoll = kPoll_;      // packets of other tiles that a thread asks for at a time
    static constexpr int kStages = kStages_;  // tiles of the inputs that a block has in shared memory, 1 or 2
    static constexpr Feeding kFeeding = kFeeding_;
    static constexpr bool kInTurn = kFeeding == Feeding::kInTurn;
    // Whether the rows of a tile are pieces of longer ones, whose other pieces blocks beside this one work on: then the
    // second-level cache does well to gather what is written.
    static constexpr bool kPieces = kWidth != Width::kNarrow;
    static constexpr int kThreads = kLanes * kSegments;
    static constexpr int kChannels = kLanes * kVector;
    static constexpr int kLength = kSteps * kSegments;
    // The last threads fetch inputs, where there are enough of them: not those that have a share in the look-back.
    static constexpr int kLoaders = kThreads >= 4 * kChannels ? kThreads - 2 * kChannels : kThreads;
    static constexpr int kRowBytes = kChannels * static_cast<int>(sizeof(T));
    // Memory is at its best with 256 bytes at a time: of a shorter piece the second-level cache fetches the others with it.
    static constexpr bool kFetchesMore = kPieces && kRowBytes < 256;
    static constexpr int kAccessBytes = kRowBytes < 16 ? kRowBytes : 16;  // that a `_vector` kernel copies at once
    static constexpr int kAccess = kAccessBytes / static_cast<int>(sizeof(T));

    static_assert(kThreads % kChannels == 0, "every channel of a tile has a thread for its carry");
    static_assert((kLength & (kLength - 1)) == 0, "saved states lie a power of two apart");
    static_assert(kSteps <= 32, "steps of a segment are bits of a word");
    static_assert(kVector * sizeof(T) % 4 == 0 && kVector * sizeof(T) <= 16, "one access to shared memory per step");
    static_assert(kAccess % kVector == 0, "what can be copied at once can be stored at once");
    static_assert(kThreads <= 1024, "a block");
    static_assert(kStages == 1 || kStages == 2, "the tile that is computed, and perhaps the next one");
    static_assert(kStages == 1 || kFeeding != Feeding::kBehind, "what is loaded last needs no second stage");
};

}  // namespace QUICK_SSM_NAMESPACE
