// Tiles of the inputs in shared memory.
//
// A `_vector` kernel has 16 bytes at a time copied without registers, and waits for them only when it needs the tile; an
// `_element` kernel, for tensors of any layout, reads the elements and stores them.
#pragma once

#include "ticket.cuh"
#include "tile.cuh"

namespace QUICK_SSM_NAMESPACE {

// `kInputs` tensors of the type of the tile.
template <class Tile, int kInputs, bool kVectorised>
class Stages {
public:
    using T = typename Tile::Value;
    static constexpr int kVector = Tile::kVector;
    static constexpr int kTileBytes = Tile::kLength * Tile::kRowBytes;

    struct alignas(16) Shared {
        unsigned char bytes[Tile::kStages][kInputs][kTileBytes];
    };

    QUICK_SSM_DEVICE explicit Stages(Shared& shared) : shared_(shared) {}

    // From now on the stage that was loaded is the one that is read; the next barrier makes it whole.
    QUICK_SSM_DEVICE void advance() {
        if constexpr (kVectorised) wait_for_copies();
        current_ = loaded();
    }

    // Loads a tile of one input into the stage that is not read, or the only one. All threads take part. Steps and channels beyond the
    // tensor get `fill`, and so does all where the input is not needed.
    QUICK_SSM_DEVICE void load(const Params& params, const Operand& operand, int input, bool needed, float fill,
                               const Place& place) {
        const int row = thread_index() / kPieces, column = thread_index() % kPieces * kPiece;
        const uint32_t channel = place.channel + static_cast<uint32_t>(column);
        const int64_t time = static_cast<int64_t>(place.chunk) * Tile::kLength, left = params.length - time;
        const bool inside = needed && operand.data && channel < params.channels;
        const int steps = !inside ? 0 : left < Tile::kLength ? static_cast<int>(left) : Tile::kLength;

        const int64_t first = params.reverse ? params.length - 1 - time - row : time + row;
        const int64_t stride = params.reverse ? -operand.time_stride : operand.time_stride;
        const T* from = static_cast<const T*>(operand.data) + place.batch * operand.batch_stride +
                        first * operand.time_stride +
                        (kVectorised ? channel : static_cast<int64_t>(channel) * operand.channel_stride);
        unsigned char* to = shared_.bytes[loaded()][input] + row * Tile::kRowBytes + column * kBytes;
        if (steps == Tile::kLength) {
            QUICK_SSM_UNROLL
            for (int i = 0; i < kTurns; ++i) {
                if (Tile::kLength % kRows == 0 || i * kRows + row < Tile::kLength) {
                    copy(to + i * kRows * Tile::kRowBytes, from);
                }
                from += kRows * stride;
            }
            return;
        }
        for (int i = row; i < Tile::kLength; i += kRows) {
            if (i < steps) {
                copy(to, from);
            } else {
                for (int j = 0; j < kPiece; ++j) store_shared_value(to + j * kBytes, encode_value<T>(fill));
            }
            from += kRows * stride;
            to += kRows * Tile::kRowBytes;
        }
    }

    // Neighbouring elements of an input at a step of the tile that is read.
    QUICK_SSM_DEVICE Pack<T, kVector> read(int input, int step, int lane) const {
        Pack<T, kVector> pack;
        load_shared_words(shared_.bytes[current_][input] + step * Tile::kRowBytes +
                              lane * kVector * static_cast<int>(sizeof(T)),
                          pack.words);
        return pack;
    }

    // Has a tile of one input fetched into the second-level cache. All threads take part.
    QUICK_SSM_DEVICE static void prefetch(const Params& params, const Operand& operand, bool needed, const Place& place) {
        if (!needed || !operand.data) return;
        QUICK_SSM_UNROLL
        for (int i = 0; i < kLineTurns; ++i) {
            const int item = i * Tile::kThreads + thread_index(), row = item / kLines;
            const uint32_t channel = place.channel + static_cast<uint32_t>(item % kLines * (kLineBytes / kBytes));
            const int64_t time = static_cast<int64_t>(place.chunk) * Tile::kLength + row;
            if (row < Tile::kLength && time < params.length && channel < params.channels) {
                prefetch_line(static_cast<const T*>(operand.data) + place.batch * operand.batch_stride +
                              (params.reverse ? params.length - 1 - time : time) * operand.time_stride +
                              static_cast<int64_t>(channel) * operand.channel_stride);
            }
        }
    }

private:
    static constexpr int kBytes = static_cast<int>(sizeof(T));
    static constexpr int kPiece = kVectorised ? Tile::kAccess : 1;           // elements that a thread copies at once
    static constexpr int kPieces = Tile::kChannels / kPiece;                 // of a row
    static constexpr int kRows = Tile::kThreads / kPieces;                   // that all threads together copy at once
    static constexpr int kTurns = (Tile::kLength + kRows - 1) / kRows;
    static_assert(Tile::kThreads % kPieces == 0, "a thread stays in its column");
    static constexpr int kLineBytes = 128;
    static constexpr int kLines = (Tile::kRowBytes + kLineBytes - 1) / kLineBytes;
    static constexpr int kLineTurns = (Tile::kLength * kLines + Tile::kThreads - 1) / Tile::kThreads;

    QUICK_SSM_DEVICE int loaded() const { return Tile::kStages - 1 - current_; }

    QUICK_SSM_DEVICE static void copy(unsigned char* to, const T* from) {
        if constexpr (kVectorised) {
            copy_async<Tile::kAccessBytes>(to, from);
        } else {
            store_shared_value(to, load_value(from));
        }
    }

    Shared& shared_;
    int current_ = Tile::kStages - 1;
};

// What was read of one step of the channels of a thread; `step(v)` is the view of one of them that a form takes.
template <class Stage, int kInputs>
class StepInputs {
public:
    QUICK_SSM_DEVICE StepInputs(const Stage& stages, int step, int lane) {
        QUICK_SSM_UNROLL
        for (int input = 0; input < kInputs; ++input) packs_[input] = stages.read(input, step, lane);
    }
    QUICK_SSM_DEVICE auto operator[](int v) const {
        return [this, v](int input) { return packs_[input][v]; };
    }

private:
    Pack<typename Stage::T, Stage::kVector> packs_[kInputs];
};

}  // namespace QUICK_SSM_NAMESPACE
