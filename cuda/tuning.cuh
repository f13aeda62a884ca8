// Which tile each kernel has: channels per thread, steps per thread, threads across channels, threads along time, the blocks
// per multiprocessor to keep registers for, the packets of a run polled at a time, the stages, and how it is fed.
//
// Measured on an H100 and an H200. Of two stages a block holds 48 KB to 99 KB of inputs in shared memory, two or three
// blocks to a multiprocessor, and cards with 100 KB still run one; of one stage up to 80 KB. Packets that are polled at the
// same time save a wait, up to three of them, as many as a group of a wide tensor has, unless they cost registers that are
// not there. A kernel that loads while its registers are full spills: then it is fed behind.
#pragma once

#include "tile.cuh"

namespace QUICK_SSM_NAMESPACE {

// Of the tensors that a kernel is made for. In a narrow one, of few channels, hardly any tiles are independent: most of
// those that are computed at a time follow one another, and their number is what the look-back has to pass.
enum class Width { kWide, kNarrow };

enum class Scan { kForward, kBackward, kGatedForward, kGatedBackward };

template <class T, Width kWidth, Scan kScan>
struct TileOf;

#define QUICK_SSM_TILE(Type, kWidth, kScan, kVector, kSteps, kLanes, kSegments, kBlocks, kPoll, kStages, kFeeding)          \
    template <>                                                                                                         \
    struct TileOf<Type, Width::kWidth, Scan::kScan> {                                                                   \
        using Shape = TileShape<Type, kVector, kSteps, kLanes, kSegments, kBlocks, kPoll, kStages, Feeding::kFeeding>;  \
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
QUICK_SSM_TILE(Half, kWide, kBackward, 4, 4, 16, 16, 2, 2, 2, kAhead)
QUICK_SSM_TILE(BFloat, kWide, kBackward, 4, 4, 16, 16, 2, 3, 2, kAhead)
QUICK_SSM_TILE(Double, kWide, kBackward, 1, 4, 32, 8, 2, 2, 2, kAhead)
QUICK_SSM_TILE(Float, kWide, kGatedForward, 4, 4, 8, 16, 2, 3, 2, kAhead)
QUICK_SSM_TILE(Half, kWide, kGatedForward, 4, 4, 16, 16, 2, 3, 2, kAhead)
QUICK_SSM_TILE(BFloat, kWide, kGatedForward, 4, 4, 16, 16, 2, 3, 2, kAhead)
QUICK_SSM_TILE(Double, kWide, kGatedForward, 1, 4, 32, 8, 2, 2, 2, kAhead)
QUICK_SSM_TILE(Float, kWide, kGatedBackward, 2, 4, 16, 8, 3, 3, 2, kAhead)
QUICK_SSM_TILE(Half, kWide, kGatedBackward, 4, 4, 16, 8, 3, 3, 1, kAhead)
QUICK_SSM_TILE(BFloat, kWide, kGatedBackward, 4, 4, 16, 8, 3, 3, 1, kAhead)
QUICK_SSM_TILE(Double, kWide, kGatedBackward, 1, 2, 32, 8, 2, 2, 2, kAhead)
QUICK_SSM_TILE(Float, kNarrow, kForward, 4, 8, 8, 16, 3, 3, 1, kInTurn)
QUICK_SSM_TILE(Half, kNarrow, kForward, 4, 8, 16, 16, 2, 2, 1, kInTurn)
QUICK_SSM_TILE(BFloat, kNarrow, kForward, 8, 8, 8, 16, 3, 2, 1, kInTurn)
QUICK_SSM_TILE(Double, kNarrow, kForward, 2, 8, 8, 16, 3, 2, 1, kInTurn)
QUICK_SSM_TILE(Float, kNarrow, kBackward, 4, 4, 8, 16, 4, 2, 1, kInTurn)
QUICK_SSM_TILE(Half, kNarrow, kBackward, 8, 4, 8, 16, 3, 1, 1, kBehind)
QUICK_SSM_TILE(BFloat, kNarrow, kBackward, 8, 4, 8, 16, 3, 2, 1, kBehind)
QUICK_SSM_TILE(Double, kNarrow, kBackward, 1, 4, 16, 16, 2, 2, 1, kBehind)
QUICK_SSM_TILE(Float, kNarrow, kGatedForward, 4, 4, 8, 32, 2, 2, 1, kBehind)
QUICK_SSM_TILE(Half, kNarrow, kGatedForward, 8, 8, 8, 16, 2, 2, 1, kBehind)
QUICK_SSM_TILE(BFloat, kNarrow, kGatedForward, 8, 8, 8, 16, 2, 2, 1, kBehind)
QUICK_SSM_TILE(Double, kNarrow, kGatedForward, 1, 8, 16, 16, 2, 2, 1, kBehind)
QUICK_SSM_TILE(Float, kNarrow, kGatedBackward, 4, 4, 8, 16, 2, 2, 1, kBehind)
QUICK_SSM_TILE(Half, kNarrow, kGatedBackward, 4, 4, 8, 16, 3, 2, 1, kBehind)
QUICK_SSM_TILE(BFloat, kNarrow, kGatedBackward, 4, 4, 8, 16, 3, 2, 1, kBehind)
QUICK_SSM_TILE(Double, kNarrow, kGatedBackward, 1, 4, 16, 16, 2, 2, 1, kBehind)
#endif
#undef QUICK_SSM_TILE

}  // namespace QUICK_SSM_NAMESPACE
