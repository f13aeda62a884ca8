// Which tile each kernel uses: channels per thread, steps per thread, threads across channels, threads along
// time, the blocks per multiprocessor to keep registers for, and the packets polled at a time. Each line can be
// overridden when compiling.
//
// Measured on an H200. A block holds two tiles of its inputs in shared memory, 64 KB to 99 KB together: two or three blocks
// fill a multiprocessor, and cards with 100 KB still run one. More packets at a time cost more instructions than they save.
#pragma once

#include "tile.cuh"

#ifndef QUICK_SSM_FORWARD_F32
#define QUICK_SSM_FORWARD_F32 4, 4, 16, 8, 3, 2
#endif
#ifndef QUICK_SSM_FORWARD_F16
#define QUICK_SSM_FORWARD_F16 4, 4, 16, 16, 3, 2
#endif
#ifndef QUICK_SSM_FORWARD_BF16
#define QUICK_SSM_FORWARD_BF16 4, 4, 16, 16, 3, 2
#endif
#ifndef QUICK_SSM_FORWARD_F64
#define QUICK_SSM_FORWARD_F64 1, 4, 32, 8, 3, 2
#endif
#ifndef QUICK_SSM_BACKWARD_F32
#define QUICK_SSM_BACKWARD_F32 4, 2, 16, 16, 2, 2
#endif
#ifndef QUICK_SSM_BACKWARD_F16
#define QUICK_SSM_BACKWARD_F16 4, 4, 16, 16, 2, 2
#endif
#ifndef QUICK_SSM_BACKWARD_BF16
#define QUICK_SSM_BACKWARD_BF16 4, 4, 16, 16, 2, 2
#endif
#ifndef QUICK_SSM_BACKWARD_F64
#define QUICK_SSM_BACKWARD_F64 1, 4, 32, 8, 2, 2
#endif
#ifndef QUICK_SSM_GATED_FORWARD_F32
#define QUICK_SSM_GATED_FORWARD_F32 2, 4, 32, 8, 2, 2
#endif
#ifndef QUICK_SSM_GATED_FORWARD_F16
#define QUICK_SSM_GATED_FORWARD_F16 4, 4, 16, 16, 2, 2
#endif
#ifndef QUICK_SSM_GATED_FORWARD_BF16
#define QUICK_SSM_GATED_FORWARD_BF16 4, 4, 16, 16, 2, 2
#endif
#ifndef QUICK_SSM_GATED_FORWARD_F64
#define QUICK_SSM_GATED_FORWARD_F64 1, 4, 32, 8, 2, 2
#endif
#ifndef QUICK_SSM_GATED_BACKWARD_F32
#define QUICK_SSM_GATED_BACKWARD_F32 2, 2, 32, 8, 3, 2
#endif
#ifndef QUICK_SSM_GATED_BACKWARD_F16
#define QUICK_SSM_GATED_BACKWARD_F16 4, 4, 16, 8, 3, 2
#endif
#ifndef QUICK_SSM_GATED_BACKWARD_BF16
#define QUICK_SSM_GATED_BACKWARD_BF16 4, 4, 16, 8, 3, 2
#endif
#ifndef QUICK_SSM_GATED_BACKWARD_F64
#define QUICK_SSM_GATED_BACKWARD_F64 1, 2, 32, 8, 2, 2
#endif
namespace QUICK_SSM_NAMESPACE {

// The tiles of the plain and the gated scan of each type.
template <class T>
struct Tiles;
template <>
struct Tiles<float> {
    using Forward = TileShape<float, QUICK_SSM_FORWARD_F32>;
    using Backward = TileShape<float, QUICK_SSM_BACKWARD_F32>;
    using GatedForward = TileShape<float, QUICK_SSM_GATED_FORWARD_F32>;
    using GatedBackward = TileShape<float, QUICK_SSM_GATED_BACKWARD_F32>;
};
template <>
struct Tiles<Half> {
    using Forward = TileShape<Half, QUICK_SSM_FORWARD_F16>;
    using Backward = TileShape<Half, QUICK_SSM_BACKWARD_F16>;
    using GatedForward = TileShape<Half, QUICK_SSM_GATED_FORWARD_F16>;
    using GatedBackward = TileShape<Half, QUICK_SSM_GATED_BACKWARD_F16>;
};
template <>
struct Tiles<BFloat> {
    using Forward = TileShape<BFloat, QUICK_SSM_FORWARD_BF16>;
    using Backward = TileShape<BFloat, QUICK_SSM_BACKWARD_BF16>;
    using GatedForward = TileShape<BFloat, QUICK_SSM_GATED_FORWARD_BF16>;
    using GatedBackward = TileShape<BFloat, QUICK_SSM_GATED_BACKWARD_BF16>;
};
template <>
struct Tiles<double> {
    using Forward = TileShape<double, QUICK_SSM_FORWARD_F64>;
    using Backward = TileShape<double, QUICK_SSM_BACKWARD_F64>;
    using GatedForward = TileShape<double, QUICK_SSM_GATED_FORWARD_F64>;
    using GatedBackward = TileShape<double, QUICK_SSM_GATED_BACKWARD_F64>;
};

}  // namespace QUICK_SSM_NAMESPACE
