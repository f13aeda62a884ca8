// The bias of the gates: zero beyond the tensor, and where there is none.
#pragma once

#include "rows.cuh"

namespace QUICK_SSM_NAMESPACE {

template <class Acc>
QUICK_SSM_DEVICE Acc load_bias(const Params& params, uint32_t channel) {
    const Operand& bias = params.a_bias;
    if (!bias.data || channel >= params.channels) return 0;
    return load_as<Acc>(bias.data, bias.dtype, static_cast<int64_t>(channel) * bias.channel_stride);
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
            bias_[slot] = load_bias<Acc>(params, channel);
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
