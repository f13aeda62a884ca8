// Where the segment of a thread lies, and how it writes its results: its channels at once where alignment allows it, else
// one by one. The arithmetic on a channel is the same both ways.
#pragma once

#include "ticket.cuh"
#include "tile.cuh"

namespace QUICK_SSM_NAMESPACE {

// In which a thread goes through the steps of its segment.
enum class Order { kForwards, kBackwards };

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
        steps_ = left <= 0 || !has(0) ? 0 : left < Tile::kSteps ? static_cast<int>(left) : Tile::kSteps;
    }

    QUICK_SSM_DEVICE static int lane() { return thread_index() % Tile::kLanes; }
    QUICK_SSM_DEVICE static int segment() { return thread_index() / Tile::kLanes; }
    QUICK_SSM_DEVICE uint32_t batch() const { return batch_; }
    // The first step of the segment, counted in the order in which time runs.
    QUICK_SSM_DEVICE int64_t first() const { return first_; }

    // The channel of a slot in shared memory, where all lanes of one vector index lie side by side.
    QUICK_SSM_DEVICE static uint32_t slot_channel(const Place& place, int slot) {
        return place.channel + static_cast<uint32_t>(slot % Tile::kLanes * kVector + slot / Tile::kLanes);
    }
    QUICK_SSM_DEVICE uint32_t slot_channel(int slot) const { return slot_channel(Place{0, 0, channel_, 0}, slot); }
    QUICK_SSM_DEVICE static int slot(int v) { return v * Tile::kLanes + lane(); }
    // Where the carry of a segment lies.
    QUICK_SSM_DEVICE static int entry(int v) { return segment() * Tile::kChannels + slot(v); }
    QUICK_SSM_DEVICE uint32_t channel(int v) const { return channel_ + static_cast<uint32_t>(lane() * kVector + v); }
    QUICK_SSM_DEVICE bool has(int v) const { return channel(v) < channels_; }

    // Calls `take(s, v, value)` for the steps and channels of the segment of a tensor, given by its operand, in the order of
    // time. `load(index)` reads an element; where there is none the value is zero.
    template <class Load, class Take>
    QUICK_SSM_DEVICE void each(const Operand& operand, const Load& load, const Take& take) const {
        const int64_t first = batch_ * operand.batch_stride + first_ * operand.time_stride;
        const int steps = operand.data ? steps_ : 0;
        QUICK_SSM_UNROLL
        for (int s = 0; s < Tile::kSteps; ++s) {
            QUICK_SSM_UNROLL
            for (int v = 0; v < kVector; ++v) {
                Acc value = 0;
                if (s < steps && has(v)) {
                    const int64_t offset = static_cast<int64_t>(channel(v)) * operand.channel_stride;
                    value = load(first + s * operand.time_stride + offset);
                }
                take(s, v, value);
            }
        }
    }
    // Reads a tensor of any type, converted at once; zeros where there is none.
    QUICK_SSM_DEVICE void load_any(const Operand& operand, Acc (&values)[Tile::kSteps][kVector]) const {
        with_type(operand.data, operand.dtype, [&](const auto* data) {
            each(
                operand, [&](int64_t index) { return static_cast<Acc>(decode_value(load_value(data + index))); },
                [&](int s, int v, Acc value) { values[s][v] = value; });
        });
    }

    // Writes the steps of the segment to some tensors, one after the other; nowhere where `tensor(n)` is null.
    template <class Out, int kTensors>
    class Writer {
    public:
        template <class Tensor>
        QUICK_SSM_DEVICE Writer(const Rows& rows, const Tensor& tensor, int64_t stride, Order order)
            : next_((order == Order::kBackwards ? -rows.direction_ : rows.direction_) * stride),
              steps_(rows.steps_), channels_(rows.channels_inside()) {
            row_ = rows.row_ * stride + rows.channel(0);
            if (order == Order::kBackwards) row_ -= (Tile::kSteps - 1) * next_;
            QUICK_SSM_UNROLL
            for (int n = 0; n < kTensors; ++n) tensors_[n] = static_cast<Out*>(tensor(n));
        }
        // Step `s`, which has its turn.
        QUICK_SSM_DEVICE void write(int s, const Acc (&values)[kTensors][kVector]) {
            QUICK_SSM_UNROLL
            for (int n = 0; n < kTensors; ++n) {
                // where a kernel is vectorised, a segment that has steps has all channels
                const int channels = kVectorised ? kVector : channels_;
                store_row(tensors_[n] + row_, s < steps_ && tensors_[n] ? channels : 0, values[n]);
            }
            row_ += next_;
        }

    private:
        Out* tensors_[kTensors];
        int64_t next_;  // elements from a row to the one that is written after it
        int64_t row_;   // the one that is written next, from the first channel of the thread
        int steps_, channels_;  // of the thread, that lie inside the tensors
    };

    // Writes the segment of a contiguous tensor of any type.
    QUICK_SSM_DEVICE void store_any(void* tensor, uint32_t dtype, const Acc (&values)[Tile::kSteps][kVector]) const {
        if (dtype == Element<T>::kType) {
            store_segment<T>(tensor, values);
        } else if (dtype == Element<Acc>::kType) {
            store_segment<Acc>(tensor, values);
        } else {
            QUICK_SSM_UNROLL
            for (int s = 0; s < Tile::kSteps; ++s) {
                QUICK_SSM_UNROLL
                for (int v = 0; v < kVector; ++v) {
                    if (s < steps_ && has(v)) {
                        store_as(tensor, dtype, (row_ + direction_ * s) * channels_ + channel(v), values[s][v]);
                    }
                }
            }
        }
    }

    // Rows of [N, D] states in the accumulation type.
    QUICK_SSM_DEVICE void store_state(void* states, int64_t row, const Acc (&values)[kVector]) const {
        store_row(static_cast<Acc*>(states) + row * channels_ + channel(0), channels_inside(), values);
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
    QUICK_SSM_DEVICE void store_segment(void* tensor, const Acc (&values)[Tile::kSteps][kVector]) const {
        Writer<Out, 1> writer(*this, [=](int) { return tensor; }, channels_, Order::kForwards);
        QUICK_SSM_UNROLL
        for (int s = 0; s < Tile::kSteps; ++s) writer.write(s, reinterpret_cast<const Acc (&)[1][kVector]>(values[s]));
    }

    // `row` points to the first channel of the thread, of which `channels` lie inside the tensor: where a kernel is
    // vectorised, all or none.
    template <class Out>
    QUICK_SSM_DEVICE static void store_row(Out* row, int channels, const Acc (&values)[kVector]) {
        if constexpr (kVectorised) {
            store_words_if<Tile::kPieces>(channels > 0, row, Pack<Out, kVector>::of(values).words);
        } else {
            QUICK_SSM_UNROLL
            for (int v = 0; v < kVector; ++v) {
                if (v < channels) store_value(row + v, encode_value<Out>(values[v]));
            }
        }
    }

    QUICK_SSM_DEVICE int channels_inside() const {
        return channel(0) >= channels_ ? 0 : static_cast<int>(channels_ - channel(0));
    }

    uint32_t channels_;
    uint32_t batch_;
    uint32_t channel_;  // first of the tile
    int64_t first_;
    int direction_;
    int64_t row_;  // of the first step
    int steps_;    // of the segment that lie inside the tensor; none where its channels do not
};

}  // namespace QUICK_SSM_NAMESPACE
