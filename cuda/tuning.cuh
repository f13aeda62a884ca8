// Which tile each kernel has: channels per thread, steps per thread, threads across channels, threads along time, the blocks
// per multiprocessor to keep registers for, the packets of a run polled at a time, the stages, and how it is fed.
//
// Measured on an H100 and an H200. Of two stages a block holds 48 KB to 99 KB of inputs in shared memory, two or three
// blocks to a multiprocessor, and cards with 100 KB still run one; of one stage up to 80 KB. Rows of 256 bytes are
// written faster than those of 128, and one block of a large tile is faster than two of half its channels. Packets that are
// polled at the same time save a wait, up to three or four of them, unless they cost registers that are not there. A kernel
// that loads while its registers are full spills: then it is fed behind.
#pragma once

#include "tile.cuh"

namespace QUICK_SSM_NAMESPACE {

enum class Scan { kForward, kBackward, kGatedForward, kGatedBackward, kSum };

// What has no narrow or large tiles has those of a wide tensor.
template <class T, Width kWidth, Scan kScan>
struct TileOf : TileOf<T, Width::kWide, kScan> {};

#define QUICK_SSM_TILE(Type, kWidth, kScan, kVector, kSteps, kLanes, kSegments, kBlocks, kPoll, kStages, kFeeding)          \
    template <>                                                                                                         \
    struct TileOf<Type, Width::kWidth, Scan::kScan> {                                                                   \
        using Shape = TileShape<Type, Width::kWidth, kVector, kSteps, kLanes, kSegments, kBlocks, kPoll, kStages,       \
                                Feeding::kFeeding>;                                                                     \
    };

// A file of other tiles takes the place of these, for tests and for tuning.
#ifdef QUICK_SSM_TILES
#include QUICK_SSM_TILES
#else
QUICK_SSM_TILE(Float, kWide, kForward, 4, 8, 8, 16, 3, 3, 1, kAhead)
QUICK_SSM_TILE(Half, kWide, kForward, 4, 8, 16, 16, 2, 2, 1, kAhead)
QUICK_SSM_TILE(BFloat, kWide, kForward, 4, 8, 16, 16, 2, 3, 1, kAhead)
QUICK_SSM_TILE(Double, kWide, kForward, 2, 8, 8, 16, 3, 2, 1, kAhead)
QUICK_SSM_TILE(Float, kWide, kBackward, 2, 4, 32, 8, 2, 3, 2, kAhead)
QUICK_SSM_TILE(Half, kWide, kBackward, 2, 8, 32, 8, 2, 3, 2, kAhead)
QUICK_SSM_TILE(BFloat, kWide, kBackward, 2, 8, 32, 8, 2, 3, 2, kAhead)
QUICK_SSM_TILE(Double, kWide, kBackward, 1, 4, 32, 8, 2, 2, 2, kAhead)
QUICK_SSM_TILE(Float, kWide, kGatedForward, 4, 4, 8, 16, 2, 3, 2, kAhead)
QUICK_SSM_TILE(Half, kWide, kGatedForward, 4, 4, 16, 16, 2, 3, 2, kAhead)
QUICK_SSM_TILE(BFloat, kWide, kGatedForward, 4, 4, 16, 16, 2, 3, 2, kAhead)
QUICK_SSM_TILE(Double, kWide, kGatedForward, 1, 4, 32, 8, 2, 2, 2, kAhead)
QUICK_SSM_TILE(Float, kWide, kGatedBackward, 4, 4, 16, 8, 2, 3, 1, kAhead)
QUICK_SSM_TILE(Half, kWide, kGatedBackward, 4, 4, 16, 8, 3, 3, 1, kAhead)
QUICK_SSM_TILE(BFloat, kWide, kGatedBackward, 4, 4, 16, 8, 3, 3, 1, kAhead)
QUICK_SSM_TILE(Double, kWide, kGatedBackward, 1, 2, 32, 8, 2, 2, 2, kAhead)
QUICK_SSM_TILE(Float, kWide, kSum, 1, 16, 16, 64, 1, 1, 1, kAhead)
QUICK_SSM_TILE(Half, kWide, kSum, 2, 16, 16, 64, 1, 1, 1, kAhead)
QUICK_SSM_TILE(BFloat, kWide, kSum, 2, 16, 16, 64, 1, 1, 1, kAhead)
QUICK_SSM_TILE(Double, kWide, kSum, 1, 16, 16, 64, 1, 1, 1, kAhead)
QUICK_SSM_TILE(Float, kNarrow, kForward, 4, 8, 8, 16, 3, 3, 1, kInTurn)
QUICK_SSM_TILE(Half, kNarrow, kForward, 4, 8, 16, 16, 2, 3, 1, kInTurn)
QUICK_SSM_TILE(BFloat, kNarrow, kForward, 8, 8, 8, 16, 3, 4, 1, kInTurn)
QUICK_SSM_TILE(Double, kNarrow, kForward, 2, 8, 8, 16, 3, 2, 1, kInTurn)
QUICK_SSM_TILE(Float, kNarrow, kBackward, 4, 4, 8, 16, 4, 3, 1, kInTurn)
QUICK_SSM_TILE(Half, kNarrow, kBackward, 4, 8, 16, 8, 4, 3, 1, kBehind)
QUICK_SSM_TILE(BFloat, kNarrow, kBackward, 4, 8, 16, 8, 4, 3, 1, kBehind)
QUICK_SSM_TILE(Double, kNarrow, kBackward, 1, 4, 16, 16, 2, 2, 1, kBehind)
QUICK_SSM_TILE(Float, kNarrow, kGatedForward, 4, 4, 8, 32, 2, 2, 1, kBehind)
QUICK_SSM_TILE(Half, kNarrow, kGatedForward, 8, 8, 8, 16, 2, 2, 1, kBehind)
QUICK_SSM_TILE(BFloat, kNarrow, kGatedForward, 8, 8, 8, 16, 2, 2, 1, kBehind)
QUICK_SSM_TILE(Double, kNarrow, kGatedForward, 1, 8, 16, 16, 2, 2, 1, kBehind)
QUICK_SSM_TILE(Float, kNarrow, kGatedBackward, 4, 4, 8, 16, 2, 2, 1, kBehind)
QUICK_SSM_TILE(Half, kNarrow, kGatedBackward, 4, 4, 8, 16, 3, 2, 1, kBehind)
QUICK_SSM_TILE(BFloat, kNarrow, kGatedBackward, 4, 4, 8, 16, 3, 2, 1, kBehind)
QUICK_SSM_TILE(Double, kNarrow, kGatedBackward, 1, 4, 16, 16, 2, 2, 1, kBehind)
QUICK_SSM_TILE(Float, kLarge, kForward, 4, 8, 16, 16, 1, 3, 1, kAhead)
QUICK_SSM_TILE(Half, kLarge, kForward, 4, 8, 32, 16, 1, 1, 1, kAhead)
QUICK_SSM_TILE(BFloat, kLarge, kForward, 4, 8, 32, 16, 1, 3, 1, kAhead)
QUICK_SSM_TILE(Double, kLarge, kForward, 2, 8, 16, 16, 1, 2, 1, kAhead)
QUICK_SSM_TILE(Half, kLarge, kBackward, 2, 8, 64, 8, 1, 3, 2, kAhead)
QUICK_SSM_TILE(BFloat, kLarge, kBackward, 2, 8, 64, 8, 1, 3, 2, kAhead)
#endif
#undef QUICK_SSM_TILE

}  // namespace QUICK_SSM_NAMESPACE
