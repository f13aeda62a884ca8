// Where the elements of a thread lie, and how it reads and writes them: 16 bytes at a time where alignment and
// strides allow it, else element by element with the channels dealt out so that neighbours read neighbours.
// The arithmetic on a channel is the same both ways.
#pragma once

#include "params.cuh"
#include "tile.cuh"

namespace QUICK_SSM_NAMESPACE {

template <class Tile, bool kVectorised>
class Rows {
public:
    using T = typename Tile::Value;
    using Acc = typename Tile::Acc;
    using Segment = Pack<T, Tile::kVector>[Tile::kSteps];
    static constexpr int kVector = Tile::kVector;

    // `time` is the first step of the thread's segment, counted in the order in which time runs.
    QUICK_SSM_DEVICE Rows(const Params& params, uint32_t column, int64_t time)
        : channels_(params.channels), batch_(column / params.channel_tiles),
          channel_(column % params.channel_tiles * Tile::kChannels), lane_(thread_index() % Tile::kLanes),
          direction_(params.reverse ? -1 : 1), time_(params.reverse ? params.length - 1 - time : time),
          row_(static_cast<int64_t>(batch_) * params.length + time_) {
        const int64_t left = params.length - time;
        steps_ = left <= 0 ? 0 : left < Tile::kSteps ? static_cast<int>(left) : Tile::kSteps;
        if (kVectorised && channel(0) >= channels_) steps_ = 0;
    }

    QUICK_SSM_DEVICE uint32_t batch() const { return batch_; }

    // The channel of a slot in shared memory, where all lanes of one vector index lie side by side.
    QUICK_SSM_DEVICE uint32_t slot_channel(int slot) const {
        return channel_ + (kVectorised ? slot % Tile::kLanes * kVector + slot / Tile::kLanes : slot);
    }
    QUICK_SSM_DEVICE int slot(int v) const { return v * Tile::kLanes + lane_; }
    QUICK_SSM_DEVICE uint32_t channel(int v) const { return slot_channel(slot(v)); }
    QUICK_SSM_DEVICE bool has(int v) const { return channel(v) < channels_; }

    // Steps and channels beyond the tensor, and those of an operand that is not needed, get `fill`.
    QUICK_SSM_DEVICE void load(const Operand& operand, bool needed, float fill, Segment& segment) const {
        const T* first = static_cast<const T*>(operand.data) + batch_ * operand.batch_stride +
                         time_ * operand.time_stride + (kVectorised ? channel(0) : 0);
        const int64_t stride = direction_ * operand.time_stride;
        const int steps = needed && operand.data ? steps_ : 0;
        QUICK_SSM_UNROLL
        for (int s = 0; s < Tile::kSteps; ++s) {
            segment[s] = Pack<T, kVector>::filled(fill);
            if (s >= steps) continue;
            if constexpr (kVectorised) {
                load_words(first + s * stride, segment[s].words);
            } else {
                QUICK_SSM_UNROLL
                for (int v = 0; v < kVector; ++v) {
                    if (has(v)) {
                        const int64_t offset = static_cast<int64_t>(channel(v)) * operand.channel_stride;
                        segment[s].set(v, load_value(first + s * stride + offset));
                    }
                }
            }
        }
    }

    // As `load`, for an operand of any type, converted at once.
    QUICK_SSM_DEVICE void load_any(const Operand& operand, Acc (&values)[Tile::kSteps][kVector]) const {
        const int64_t first = batch_ * operand.batch_stride + time_ * operand.time_stride;
        const int64_t stride = direction_ * operand.time_stride;
        const int steps = operand.data ? steps_ : 0;
        QUICK_SSM_UNROLL
        for (int s = 0; s < Tile::kSteps; ++s) {
            QUICK_SSM_UNROLL
            for (int v = 0; v < kVector; ++v) {
                values[s][v] = 0;
                if (s < steps && has(v)) {
                    const int64_t offset = static_cast<int64_t>(channel(v)) * operand.channel_stride;
                    values[s][v] = load_as<Acc>(operand.data, operand.dtype, first + s * stride + offset);
                }
            }
        }
    }

    // Writes step `s` of a contiguous tensor.
    template <class Out = T>
    QUICK_SSM_DEVICE void store(void* tensor, int s, const Acc (&values)[kVector]) const {
        if (s >= steps_) return;
        store_row(static_cast<Out*>(tensor) + (row_ + direction_ * s) * channels_, values);
    }

    QUICK_SSM_DEVICE void store_any(void* tensor, uint32_t dtype, int s, const Acc (&values)[kVector]) const {
        if (dtype == Element<T>::kType) {
            store<T>(tensor, s, values);
        } else if (dtype == Element<Acc>::kType) {
            store<Acc>(tensor, s, values);
        } else if (s < steps_) {
            QUICK_SSM_UNROLL
            for (int v = 0; v < kVector; ++v) {
                if (has(v)) store_as(tensor, dtype, (row_ + direction_ * s) * channels_ + channel(v), values[v]);
            }
        }
    }

    // Rows of [N, D] states in the accumulation type.
    QUICK_SSM_DEVICE void store_state(void* states, int64_t row, const Acc (&values)[kVector]) const {
        if (has(0)) store_row(static_cast<Acc*>(states) + row * channels_, values);
    }
    QUICK_SSM_DEVICE Acc load_state(const void* states, int64_t row, uint32_t channel) const {
        if (!states || channel >= channels_) return 0;
        return load_value(static_cast<const Acc*>(states) + row * channels_ + channel);
    }

private:
    template <class Out>
    QUICK_SSM_DEVICE void store_row(Out* row, const Acc (&values)[kVector]) const {
        if constexpr (kVectorised) {
            store_words(row + channel(0), Pack<Out, kVector>::of(values).words);
        } else {
            QUICK_SSM_UNROLL
            for (int v = 0; v < kVector; ++v) {
                if (has(v)) store_value(row + channel(v), encode_value<Out>(values[v]));
            }
        }
    }

    uint32_t channels_;
    uint32_t batch_;
    uint32_t channel_;  // first of the tile
    int lane_;
    int steps_;  // of the segment that lie inside the tensor
    int direction_;
    int64_t time_;  // of the first step, as the tensor counts it
    int64_t row_;
};

}  // namespace QUICK_SSM_NAMESPACE
