// Tiles of the inputs in shared memory.
//
// A `_vector` kernel has 16 bytes at a time copied without registers, and waits for them only when it needs the tile; an
// `_element` kernel, for tensors of any layout, reads the elements and stores them.
#pragma once

#include "ticket.cuh"
#include "tile.cuh"

namespace QUICK_SSM_NAMESPACE {

// `kInputs` tensors of the type of the tile.
template <class Tile, int kInputs_, bool kVectorised_>
class Stages {
public:
    static constexpr int kInputs = kInputs_;
    static constexpr bool kVectorised = kVectorised_;
    using T = typename Tile::Value;
    static constexpr int kVector = Tile::kVector;
    static constexpr int kTileBytes = Tile::kLength * Tile::kRowBytes;

    struct alignas(16) Shared {
        unsigned char bytes[Tile::kStages][kInputs][kTileBytes];
    };

    QUICK_SSM_DEVICE explicit Stages(Shared& shared) : shared_(shared) {}

    // From now on the next stage is the one that is read; the next barrier makes it whole.
    QUICK_SSM_DEVICE void advance() {
        wait_for_copies();
        current_ = next();
    }

    // Whether the thread is a loader.
    QUICK_SSM_DEVICE static bool loads() { return loader() >= 0; }
    // What a loader copies of a tile, of each input at the same place.
    struct Turn {
        int row, column;   // the first one, in the tile
        int64_t time;      // of the row
        uint32_t batch, channel;
        int steps;         // of the tile that lie inside the tensors; none where the channels lie beyond
        bool whole;        // all of them
    };
    QUICK_SSM_DEVICE static Turn turn(const Params& params, const Place& place) {
        Turn turn;
        turn.row = loader() / kPieces, turn.column = loader() % kPieces * kPiece;
        turn.batch = place.batch, turn.channel = place.channel + static_cast<uint32_t>(turn.column);
        turn.time = static_cast<int64_t>(place.chunk) * Tile::kLength + turn.row;
        turn.steps = steps_inside(params, place, turn.channel);
        turn.whole = turn.steps == Tile::kLength;
        return turn;
    }

    // Loads a tile of one input into the next stage, which may be the only one. All loaders take part. Steps and channels
    // beyond the tensor get `fill`, and so does all where the input is not needed.
    QUICK_SSM_DEVICE void load(const Operand& operand, int input, bool needed, float fill, const Turn& turn) {
        const int64_t stride = kRows * operand.time_stride;
        const T* from = static_cast<const T*>(operand.data) + turn.batch * operand.batch_stride +
                        turn.time * operand.time_stride +
                        (kVectorised ? turn.channel : static_cast<int64_t>(turn.channel) * operand.channel_stride);
        unsigned char* to = shared_.bytes[next()][input] + turn.row * Tile::kRowBytes + turn.column * kBytes;
        if (turn.whole && needed) {
            QUICK_SSM_UNROLL
            for (int i = 0; i < kTurns; ++i) {
                if (Tile::kLength % kRows == 0 || i * kRows + turn.row < Tile::kLength) {
                    copy(to + i * kRows * Tile::kRowBytes, from);
                }
                from += stride;
            }
            return;
        }
        for (int i = turn.row; i < Tile::kLength; i += kRows) {
            if (needed && i < turn.steps) {
                copy(to, from);
            } else {
                for (int j = 0; j < kPiece; ++j) store_shared_value(to + j * kBytes, encode_value<T>(fill));
            }
            from += stride;
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

    // Has a tile of one input fetched into the second-level cache. All loaders take part.
    QUICK_SSM_DEVICE static void prefetch(const Params& params, const Operand& operand, const Place& place) {
        const int row = loader() / kLines, column = loader() % kLines * (kLineBytes / kBytes);
        const uint32_t channel = place.channel + static_cast<uint32_t>(column);
        const int64_t time = static_cast<int64_t>(place.chunk) * Tile::kLength;
        const int steps = steps_inside(params, place, channel);
        const int64_t stride = kLineRows * operand.time_stride;
        const T* from = static_cast<const T*>(operand.data) + place.batch * operand.batch_stride +
                        (time + row) * operand.time_stride + static_cast<int64_t>(channel) * operand.channel_stride;
        QUICK_SSM_UNROLL
        for (int i = 0; i < kLineTurns; ++i) {
            if (i * kLineRows + row < steps) prefetch_line(from);
            from += stride;
        }
    }

private:
    static constexpr int kBytes = static_cast<int>(sizeof(T));
    static constexpr int kPiece = kVectorised ? Tile::kAccess : 1;           // elements that a thread copies at once
    static constexpr int kPieces = Tile::kChannels / kPiece;                 // of a row
    static constexpr int kRows = Tile::kLoaders / kPieces;                   // that all loaders together copy at once
    static constexpr int kTurns = (Tile::kLength + kRows - 1) / kRows;
    static_assert(Tile::kLoaders % kPieces == 0, "a thread stays in its column");
    static constexpr int kLineBytes = 128;
    static constexpr int kLines = (Tile::kRowBytes + kLineBytes - 1) / kLineBytes;
    static constexpr int kLineRows = Tile::kLoaders / kLines;  // that all loaders together fetch at once
    static constexpr int kLineTurns = (Tile::kLength + kLineRows - 1) / kLineRows;
    static_assert(Tile::kLoaders % kLines == 0, "a thread stays in its column");

    // The steps of a tile that lie inside the tensors; none where the channel does not.
    QUICK_SSM_DEVICE static int steps_inside(const Params& params, const Place& place, uint32_t channel) {
        const int64_t left = params.length - static_cast<int64_t>(place.chunk) * Tile::kLength;
        return channel >= params.channels ? 0 : left < Tile::kLength ? static_cast<int>(left) : Tile::kLength;
    }
    QUICK_SSM_DEVICE static int loader() { return thread_index() - (Tile::kThreads - Tile::kLoaders); }
    QUICK_SSM_DEVICE int next() const { return Tile::kStages - 1 - current_; }

    QUICK_SSM_DEVICE static void copy(unsigned char* to, const T* from) {
        if constexpr (kVectorised) {
            copy_async<Tile::kAccessBytes, Tile::kFetchesMore>(to, from);
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
    QUICK_SSM_DEVICE const auto& pack(int input) const { return packs_[input]; }

private:
    Pack<typename Stage::T, Stage::kVector> packs_[kInputs];
};

}  // namespace QUICK_SSM_NAMESPACE
