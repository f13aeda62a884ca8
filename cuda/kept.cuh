// What a pass keeps of each element of a tile, in shared memory: every thread for itself, so that no barrier is needed.
#pragma once

#include "tile.cuh"

namespace QUICK_SSM_NAMESPACE {

template <class Tile, int kValues>
class KeptTerms {
public:
    using Acc = typename Tile::Acc;
    static constexpr int kVector = Tile::kVector;

    QUICK_SSM_DEVICE void keep(int step, const Acc (&values)[kValues][kVector]) {
        QUICK_SSM_UNROLL
        for (int n = 0; n < kValues; ++n) store_shared_words(place(n, step), Pack<Acc, kVector>::of(values[n]).words);
    }

    // Of one step; `values[v](n)` is the n-th of one channel.
    class Step {
    public:
        QUICK_SSM_DEVICE Step(KeptTerms& terms, int step) {
            QUICK_SSM_UNROLL
            for (int n = 0; n < kValues; ++n) load_shared_words(terms.place(n, step), packs_[n].words);
        }
        QUICK_SSM_DEVICE auto operator[](int v) const {
            return [this, v](int n) { return packs_[n][v]; };
        }

    private:
        Pack<Acc, kVector> packs_[kValues];
    };
    QUICK_SSM_DEVICE Step kept(int step) { return Step(*this, step); }

private:
    static constexpr int kBytes = kVector * static_cast<int>(sizeof(Acc));

    // Threads side by side.
    QUICK_SSM_DEVICE unsigned char* place(int n, int step) {
        return bytes_ + ((n * Tile::kSteps + step) * Tile::kThreads + thread_index()) * kBytes;
    }

    alignas(16) unsigned char bytes_[kValues * Tile::kSteps * Tile::kThreads * kBytes];
};

// Nothing, and no byte as a base.
template <class Tile>
class KeptTerms<Tile, 0> {
public:
    struct Step {
        QUICK_SSM_DEVICE int operator[](int) const { return 0; }
    };
    QUICK_SSM_DEVICE void keep(int, const typename Tile::Acc (&)[1][Tile::kVector]) {}
    QUICK_SSM_DEVICE Step kept(int) { return {}; }
};

}  // namespace QUICK_SSM_NAMESPACE
