// What a stretch of time does to the state that enters it, h -> gate * h + state, and how two stretches combine.
#pragma once

#include "element.cuh"

namespace QUICK_SSM_NAMESPACE {

template <class Acc>
struct Carry {
    Acc gate;   // product of the gates
    Acc state;  // the state after the stretch where nothing enters it
};

QUICK_SSM_DEVICE bool is_negative_zero(float value) { return float_to_bits(value) == 0x80000000u; }
QUICK_SSM_DEVICE bool is_negative_zero(double value) {
    uint32_t low, high;
    double_to_words(value, low, high);
    return low == 0 && high == 0x80000000u;
}

// The product of gates can overflow where the plain recurrence would not, and must not turn a zero into NaN:
// a zero gate wins over an infinite one, and a zero state stays out of the product.
//
// With kCuts (packed sequences) a stretch may hold the start of a sequence, and nothing that enters the stretch,
// NaN included, gets past it. Such a stretch has the gate -0, which no product of gates is.
template <class Acc_, bool kCuts>
struct CarryOperator {
    using Acc = Acc_;
    static constexpr Acc kCut = static_cast<Acc>(-0.0);

    QUICK_SSM_DEVICE static Acc product(Acc first, Acc second) {
        const Acc value = first * second;
        if constexpr (kCuts) {
            if (is_negative_zero(first) || is_negative_zero(second)) return kCut;
            return first == 0 || second == 0 || value == 0 ? 0 : value;
        } else {
            return gate_of(value);
        }
    }
    // The product over a segment or over stretches, factor by factor, where nothing but the product waits for the one before;
    // `gate_of` turns what comes out into a gate.
    QUICK_SSM_DEVICE static Acc multiply(Acc first, Acc second) {
        return multiply_stretches(first, gate(second));
    }
    QUICK_SSM_DEVICE static Acc multiply_stretches(Acc first, Acc second) {
        if constexpr (kCuts) return product(first, second);
        return first * second;
    }
    // Only the NaN of zero times infinity matters: after a gate that is NaN itself, the state is NaN.
    QUICK_SSM_DEVICE static Acc gate_of(Acc value) {
        if constexpr (kCuts) return value;
        return value == value ? value : 0;
    }
    // A gate as it was read, where -0 is an ordinary zero.
    QUICK_SSM_DEVICE static Acc gate(Acc value) {
        if constexpr (kCuts) return value == 0 ? 0 : value;
        return value;
    }
    QUICK_SSM_DEVICE static Acc apply(const Carry<Acc>& stretch, Acc entering) {
        if (entering == 0) return stretch.state;
        if constexpr (kCuts) {
            if (is_negative_zero(stretch.gate)) return stretch.state;
        }
        return stretch.gate * entering + stretch.state;
    }
    QUICK_SSM_DEVICE static Carry<Acc> combine(const Carry<Acc>& earlier, const Carry<Acc>& later) {
        return {product(earlier.gate, later.gate), apply(later, earlier.state)};
    }
    QUICK_SSM_DEVICE static Carry<Acc> nothing() { return {1, 0}; }
};

}  // namespace QUICK_SSM_NAMESPACE
