// Which tile each kernel uses: channels per thread, steps per thread, threads across channels, threads along
// time, the blocks per multiprocessor to keep registers for, the packets of a run polled at a time, and the stages. Each
// line can be overridden when compiling.
//
// Measured on an H200. Of two stages a block holds 48 KB to 99 KB of inputs in shared memory, two or three blocks to a
// multiprocessor, and cards with 100 KB still run one; of one stage up to 80 KB. Packets that are polled at the same time
// save a wait, up to three of them, as many as a group of a wide tensor has, unless they cost registers that are not there.
#pragma once

#include "tile.cuh"

#ifndef QUICK_SSM_FORWARD_F32
#define QUICK_SSM_FORWARD_F32 4, 4, 8, 16, 3, 3, 2
#endif
#ifndef QUICK_SSM_FORWARD_F16
#define QUICK_SSM_FORWARD_F16 4, 8, 16, 16, 2, 2, 1
#endif
#ifndef QUICK_SSM_FORWARD_BF16
#define QUICK_SSM_FORWARD_BF16 4, 8, 16, 16, 2, 3, 1
#endif
#ifndef QUICK_SSM_FORWARD_F64
#define QUICK_SSM_FORWARD_F64 1, 4, 32, 8, 3, 1, 2
#endif
#ifndef QUICK_SSM_BACKWARD_F32
#define QUICK_SSM_BACKWARD_F32 2, 4, 32, 8, 2, 3, 2
#endif
#ifndef QUICK_SSM_BACKWARD_F16
#define QUICK_SSM_BACKWARD_F16 4, 4, 16, 16, 2, 2, 2
#endif
#ifndef QUICK_SSM_BACKWARD_BF16
#define QUICK_SSM_BACKWARD_BF16 4, 4, 16, 16, 2, 3, 2
#endif
#ifndef QUICK_SSM_BACKWARD_F64
#define QUICK_SSM_BACKWARD_F64 1, 4, 32, 8, 2, 2, 2
#endif
#ifndef QUICK_SSM_GATED_FORWARD_F32
#define QUICK_SSM_GATED_FORWARD_F32 4, 4, 8, 16, 2, 3, 2
#endif
#ifndef QUICK_SSM_GATED_FORWARD_F16
#define QUICK_SSM_GATED_FORWARD_F16 4, 4, 16, 16, 2, 3, 2
#endif
#ifndef QUICK_SSM_GATED_FORWARD_BF16
#define QUICK_SSM_GATED_FORWARD_BF16 4, 4, 16, 16, 2, 3, 2
#endif
#ifndef QUICK_SSM_GATED_FORWARD_F64
#define QUICK_SSM_GATED_FORWARD_F64 1, 4, 32, 8, 2, 2, 2
#endif
#ifndef QUICK_SSM_GATED_BACKWARD_F32
#define QUICK_SSM_GATED_BACKWARD_F32 2, 4, 16, 8, 3, 3, 2
#endif
#ifndef QUICK_SSM_GATED_BACKWARD_F16
#define QUICK_SSM_GATED_BACKWARD_F16 4, 4, 16, 8, 3, 3, 2
#endif
#ifndef QUICK_SSM_GATED_BACKWARD_BF16
#define QUICK_SSM_GATED_BACKWARD_BF16 4, 4, 16, 8, 3, 3, 2
#endif
#ifndef QUICK_SSM_GATED_BACKWARD_F64
#define QUICK_SSM_GATED_BACKWARD_F64 1, 2, 32, 8, 2, 2, 2
#endif
#ifndef QUICK_SSM_NARROW_FORWARD_F32
#define QUICK_SSM_NARROW_FORWARD_F32 4, 8, 8, 16, 3, 2, 1
#endif
#ifndef QUICK_SSM_NARROW_FORWARD_F16
#define QUICK_SSM_NARROW_FORWARD_F16 8, 8, 8, 16, 3, 1, 1
#endif
#ifndef QUICK_SSM_NARROW_FORWARD_BF16
#define QUICK_SSM_NARROW_FORWARD_BF16 8, 8, 8, 16, 3, 2, 1
#endif
#ifndef QUICK_SSM_NARROW_FORWARD_F64
#define QUICK_SSM_NARROW_FORWARD_F64 1, 8, 16, 16, 2, 2, 1
#endif
#ifndef QUICK_SSM_NARROW_BACKWARD_F32
#define QUICK_SSM_NARROW_BACKWARD_F32 4, 8, 8, 8, 4, 2, 1
#endif
#ifndef QUICK_SSM_NARROW_BACKWARD_F16
#define QUICK_SSM_NARROW_BACKWARD_F16 8, 4, 8, 16, 3, 1, 1
#endif
#ifndef QUICK_SSM_NARROW_BACKWARD_BF16
#define QUICK_SSM_NARROW_BACKWARD_BF16 8, 4, 8, 16, 3, 2, 1
#endif
#ifndef QUICK_SSM_NARROW_BACKWARD_F64
#define QUICK_SSM_NARROW_BACKWARD_F64 1, 4, 16, 16, 2, 2, 1
#endif
#ifndef QUICK_SSM_NARROW_GATED_FORWARD_F32
#define QUICK_SSM_NARROW_GATED_FORWARD_F32 4, 4, 8, 32, 2, 2, 1
#endif
#ifndef QUICK_SSM_NARROW_GATED_FORWARD_F16
#define QUICK_SSM_NARROW_GATED_FORWARD_F16 8, 8, 8, 16, 2, 2, 1
#endif
#ifndef QUICK_SSM_NARROW_GATED_FORWARD_BF16
#define QUICK_SSM_NARROW_GATED_FORWARD_BF16 8, 8, 8, 16, 2, 2, 1
#endif
#ifndef QUICK_SSM_NARROW_GATED_FORWARD_F64
#define QUICK_SSM_NARROW_GATED_FORWARD_F64 1, 8, 16, 16, 2, 2, 1
#endif
#ifndef QUICK_SSM_NARROW_GATED_BACKWARD_F32
#define QUICK_SSM_NARROW_GATED_BACKWARD_F32 4, 4, 8, 16, 3, 2, 1
#endif
#ifndef QUICK_SSM_NARROW_GATED_BACKWARD_F16
#define QUICK_SSM_NARROW_GATED_BACKWARD_F16 4, 4, 16, 16, 2, 1, 1
#endif
#ifndef QUICK_SSM_NARROW_GATED_BACKWARD_BF16
#define QUICK_SSM_NARROW_GATED_BACKWARD_BF16 4, 4, 16, 16, 2, 1, 1
#endif
#ifndef QUICK_SSM_NARROW_GATED_BACKWARD_F64
#define QUICK_SSM_NARROW_GATED_BACKWARD_F64 1, 4, 16, 16, 2, 2, 1
#endif

namespace QUICK_SSM_NAMESPACE {

// Of the tensors that a kernel is made for. In a narrow one, of few channels, hardly any tiles are independent: most of
// those that are computed at a time follow one another, and their number is what the look-back has to pass.
enum class Width { kWide, kNarrow };

// The tiles of the plain and the gated scan of each type.
template <class T, Width kWidth>
struct Tiles;

#define QUICK_SSM_TILES(Type, kWidth, forward, backward, gated_forward, gated_backward) \
    template <>                                                                          \
    struct Tiles<Type, Width::kWidth> {                                                  \
        using Forward = TileShape<Type, forward>;                                        \
        using Backward = TileShape<Type, backward>;                                      \
        using GatedForward = TileShape<Type, gated_forward>;                             \
        using GatedBackward = TileShape<Type, gated_backward>;                           \
    };
QUICK_SSM_TILES(float, kWide, QUICK_SSM_FORWARD_F32, QUICK_SSM_BACKWARD_F32,
                QUICK_SSM_GATED_FORWARD_F32, QUICK_SSM_GATED_BACKWARD_F32)
QUICK_SSM_TILES(Half, kWide, QUICK_SSM_FORWARD_F16, QUICK_SSM_BACKWARD_F16,
                QUICK_SSM_GATED_FORWARD_F16, QUICK_SSM_GATED_BACKWARD_F16)
QUICK_SSM_TILES(BFloat, kWide, QUICK_SSM_FORWARD_BF16, QUICK_SSM_BACKWARD_BF16,
                QUICK_SSM_GATED_FORWARD_BF16, QUICK_SSM_GATED_BACKWARD_BF16)
QUICK_SSM_TILES(double, kWide, QUICK_SSM_FORWARD_F64, QUICK_SSM_BACKWARD_F64,
                QUICK_SSM_GATED_FORWARD_F64, QUICK_SSM_GATED_BACKWARD_F64)
QUICK_SSM_TILES(float, kNarrow, QUICK_SSM_NARROW_FORWARD_F32, QUICK_SSM_NARROW_BACKWARD_F32,
                QUICK_SSM_NARROW_GATED_FORWARD_F32, QUICK_SSM_NARROW_GATED_BACKWARD_F32)
QUICK_SSM_TILES(Half, kNarrow, QUICK_SSM_NARROW_FORWARD_F16, QUICK_SSM_NARROW_BACKWARD_F16,
                QUICK_SSM_NARROW_GATED_FORWARD_F16, QUICK_SSM_NARROW_GATED_BACKWARD_F16)
QUICK_SSM_TILES(BFloat, kNarrow, QUICK_SSM_NARROW_FORWARD_BF16, QUICK_SSM_NARROW_BACKWARD_BF16,
                QUICK_SSM_NARROW_GATED_FORWARD_BF16, QUICK_SSM_NARROW_GATED_BACKWARD_BF16)
QUICK_SSM_TILES(double, kNarrow, QUICK_SSM_NARROW_FORWARD_F64, QUICK_SSM_NARROW_BACKWARD_F64,
                QUICK_SSM_NARROW_GATED_FORWARD_F64, QUICK_SSM_NARROW_GATED_BACKWARD_F64)
#undef QUICK_SSM_TILES

}  // namespace QUICK_SSM_NAMESPACE
