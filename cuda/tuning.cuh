// Which tile each kernel uses: channels per thread, steps per thread, threads across channels, threads along
// time, the blocks per multiprocessor to keep registers for, and the packets polled at a time. Each line can be
// overridden when compiling.
//
// Measured on an H200 with the prefetch of prefetch.cuh. The forward is fastest with two blocks of 256 threads that
// hold 64 KB of input each, the backward of 16-bit types with 16 bytes per access.
#pragma once

#include "tile.cuh"

#ifndef QUICK_SSM_FORWARD_F32
#define QUICK_SSM_FORWARD_F32 4, 4, 16, 16, 2, 4
#endif
#ifndef QUICK_SSM_FORWARD_F16
#define QUICK_SSM_FORWARD_F16 8, 8, 8, 16, 3, 2
#endif
#ifndef QUICK_SSM_FORWARD_BF16
#define QUICK_SSM_FORWARD_BF16 8, 4, 8, 32, 2, 4
#endif
#ifndef QUICK_SSM_FORWARD_F64
#define QUICK_SSM_FORWARD_F64 2, 4, 16, 8, 4, 4
#endif
#ifndef QUICK_SSM_BACKWARD_F32
#define QUICK_SSM_BACKWARD_F32 4, 4, 16, 16, 2, 2
#endif
#ifndef QUICK_SSM_BACKWARD_F16
#define QUICK_SSM_BACKWARD_F16 8, 4, 8, 16, 3, 2
#endif
#ifndef QUICK_SSM_BACKWARD_BF16
#define QUICK_SSM_BACKWARD_BF16 8, 4, 8, 16, 3, 2
#endif
#ifndef QUICK_SSM_BACKWARD_F64
#define QUICK_SSM_BACKWARD_F64 2, 4, 16, 8, 3, 4
#endif
namespace QUICK_SSM_NAMESPACE {

template <class T>
struct Tiles;
template <>
struct Tiles<float> {
    using Forward = TileShape<float, QUICK_SSM_FORWARD_F32>;
    using Backward = TileShape<float, QUICK_SSM_BACKWARD_F32>;
};
template <>
struct Tiles<Half> {
    using Forward = TileShape<Half, QUICK_SSM_FORWARD_F16>;
    using Backward = TileShape<Half, QUICK_SSM_BACKWARD_F16>;
};
template <>
struct Tiles<BFloat> {
    using Forward = TileShape<BFloat, QUICK_SSM_FORWARD_BF16>;
    using Backward = TileShape<BFloat, QUICK_SSM_BACKWARD_BF16>;
};
template <>
struct Tiles<double> {
    using Forward = TileShape<double, QUICK_SSM_FORWARD_F64>;
    using Backward = TileShape<double, QUICK_SSM_BACKWARD_F64>;
};

}  // namespace QUICK_SSM_NAMESPACE
