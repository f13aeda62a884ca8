// The bias of the gates: zero beyond the tensor, and where there is none.
#pragma once

#include "rows.cuh"

namespace QUICK_SSM_NAMESPACE {

// That of neighbouring channels.
template <class Acc, int kCount>
QUICK_SSM_DEVICE void load_bias(const Params& params, uint32_t channel, Acc (&values)[kCount]) {
    QUICK_SSM_UNROLL
    for (int i = 0; i < kCount; ++i) values[i] = 0;
    const Operand& bias = params.a_bias;
    if (!bias.data) return;
    with_type(bias.data, bias.dtype, [&](const auto* data) {
        QUICK_SSM_UNROLL
        for (int i = 0; i < kCount; ++i) {
            const uint32_t at = channel + static_cast<uint32_t>(i);
            if (at >= params.channels) continue;
            values[i] = static_cast<Acc>(decode_value(load_value(data + static_cast<int64_t>(at) * bias.channel_stride)));
        }
    });
}

// That of a tile, in shared memory, which comes while the tile before it is computed: for a pass in which some threads have
// nothing else to do then. In the backward pass all would wait for these at the next barrier, and a tile loads its own bias.
template <class Tile, bool kBias>
class SharedBias {
public:
    using Acc = typename Tile::Acc;

    // Called by one thread for each slot. It is there after a wait for copies and a barrier.
    QUICK_SSM_DEVICE void fetch_bias(const Params& params, const Place& place, int slot) {
        const Operand& bias = params.a_bias;
        const uint32_t channel = Rows<Tile, false>::slot_channel(place, slot);
        if (bias.data && bias.dtype == Element<Acc>::kType && channel < params.channels) {
            const Acc* data = static_cast<const Acc*>(bias.data);
            copy_async<sizeof(Acc)>(&bias_[slot], data + static_cast<int64_t>(channel) * bias.channel_stride);
        } else {
            Acc value[1];
            load_bias(params, channel, value);
            bias_[slot] = value[0];
        }
    }
    QUICK_SSM_DEVICE Acc bias(int slot) { return bias_[slot]; }

private:
    SharedArray<Acc, Tile::kChannels> bias_;
};

// None, and no byte as a base.
template <class Tile>
class SharedBias<Tile, false> {
public:
    QUICK_SSM_DEVICE void fetch_bias(const Params&, const Place&, int) {}
    QUICK_SSM_DEVICE typename Tile::Acc bias(int) { return 0; }
};

}  // namespace QUICK_SSM_NAMESPACE
