// Where the segment of a thread lies, and how it writes its results: its channels at once where alignment allows it, else
// one by one. The arithmetic on a channel is the same both ways.
#pragma once

#include "ticket.cuh"
#include "tile.cuh"

namespace QUICK_SSM_NAMESPACE {

template <class Tile, bool kVectorised>
class Rows {
public:
    using T = typename Tile::Value;
    using Acc = typename Tile::Acc;
    static constexpr int kVector = Tile::kVector;

    QUICK_SSM_DEVICE Rows(const Params& params, const Place& place)
        : channels_(params.channels), batch_(place.batch), channel_(place.channel),
          first_(static_cast<int64_t>(place.chunk) * Tile::kLength + segment() * Tile::kSteps),
          direction_(params.reverse ? -1 : 1),
          row_(batch_ * params.length + (params.reverse ? params.length - 1 - first_ : first_)) {
        const int64_t left = params.length - first_;
        steps_ = left <= 0 ? 0 : left < Tile::kSteps ? static_cast<int>(left) : Tile::kSteps;
    }

    QUICK_SSM_DEVICE static int lane() { return thread_index() % Tile::kLanes; }
    QUICK_SSM_DEVICE static int segment() { return thread_index() / Tile::kLanes; }
    QUICK_SSM_DEVICE uint32_t batch() const { return batch_; }
    // The first step of the segment, counted in the order in which time runs.
    QUICK_SSM_DEVICE int64_t first() const { return first_; }

    // The channel of a slot in shared memory, where all lanes of one vector index lie side by side.
    QUICK_SSM_DEVICE uint32_t slot_channel(int slot) const {
        return channel_ + static_cast<uint32_t>(slot % Tile::kLanes * kVector + slot / Tile::kLanes);
    }
    QUICK_SSM_DEVICE static int slot(int v) { return v * Tile::kLanes + lane(); }
    // Where the carry of a segment lies.
    QUICK_SSM_DEVICE static int entry(int v) { return segment() * Tile::kChannels + slot(v); }
    QUICK_SSM_DEVICE uint32_t channel(int v) const { return channel_ + static_cast<uint32_t>(lane() * kVector + v); }
    QUICK_SSM_DEVICE bool has(int v) const { return channel(v) < channels_; }

    // Reads a tensor of any type, given by its operand, converted at once; zeros where there is none.
    QUICK_SSM_DEVICE void load_any(const Params& params, const Operand& operand,
                                   Acc (&values)[Tile::kSteps][kVector]) const {
        const int64_t time = params.reverse ? params.length - 1 - first_ : first_;
        const int64_t first = batch_ * operand.batch_stride + time * operand.time_stride;
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

    // Writes step `s` of a tensor whose rows lie `stride` elements apart.
    template <class Out = T>
    QUICK_SSM_DEVICE void store(void* tensor, int64_t stride, int s, const Acc (&values)[kVector]) const {
        if (s < steps_) store_row(static_cast<Out*>(tensor) + (row_ + direction_ * s) * stride, values);
    }

    // As `store`, for a contiguous tensor of any type.
    QUICK_SSM_DEVICE void store_any(void* tensor, uint32_t dtype, int s, const Acc (&values)[kVector]) const {
        if (dtype == Element<T>::kType) {
            store<T>(tensor, channels_, s, values);
        } else if (dtype == Element<Acc>::kType) {
            store<Acc>(tensor, channels_, s, values);
        } else if (s < steps_) {
            QUICK_SSM_UNROLL
            for (int v = 0; v < kVector; ++v) {
                if (has(v)) store_as(tensor, dtype, (row_ + direction_ * s) * channels_ + channel(v), values[v]);
            }
        }
    }

    // Rows of [N, D] states in the accumulation type.
    QUICK_SSM_DEVICE void store_state(void* states, int64_t row, const Acc (&values)[kVector]) const {
        store_row(static_cast<Acc*>(states) + row * channels_, values);
    }
    QUICK_SSM_DEVICE Acc load_state(const void* states, int64_t row, uint32_t channel) const {
        if (!states || channel >= channels_) return 0;
        return load_value(static_cast<const Acc*>(states) + row * channels_ + channel);
    }
    // As `store_state`, by the one thread that holds a slot.
    QUICK_SSM_DEVICE void store_slot(void* states, int64_t row, int slot, Acc value) const {
        const uint32_t channel = slot_channel(slot);
        if (channel < channels_) store_value(static_cast<Acc*>(states) + row * channels_ + channel, value);
    }

private:
    template <class Out>
    QUICK_SSM_DEVICE void store_row(Out* row, const Acc (&values)[kVector]) const {
        if constexpr (kVectorised) {
            if (has(0)) store_words(row + channel(0), Pack<Out, kVector>::of(values).words);
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
    int64_t first_;
    int direction_;
    int64_t row_;  // of the first step
    int steps_;    // of the segment that lie inside the tensor
};

}  // namespace QUICK_SSM_NAMESPACE
