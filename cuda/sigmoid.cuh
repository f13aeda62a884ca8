// The logistic function.
#pragma once

#include "element.cuh"

namespace QUICK_SSM_NAMESPACE {

template <class Acc>
struct Sigmoid {
    Acc value;       // 1 / (1 + exp(-x))
    Acc complement;  // one minus the value, as accurate as the value itself where that is next to one

    QUICK_SSM_DEVICE Acc slope() const { return value * complement; }
};

// exp(-x) in the accuracy that elements of type T ask for: x log2(e) is rounded, by so much more as x is larger.
template <class T>
QUICK_SSM_DEVICE float exp_of_minus(float x) {
    const float log2_e = -1.44269504f;
    if constexpr (sizeof(T) < 4) return fast_exp2(x * log2_e);
    x = at_most(x, 127);  // what is infinite has no rest
    const float exponent = x * log2_e;
    const float value = fast_exp2(exponent);
    // what the rounding has taken off, and what the constant lacks
    const float rest = fused_multiply_add(x, log2_e, -exponent) - x * 1.92596299e-8f;
    return fused_multiply_add(value * 0.693147181f, rest, value);
}

// At -87 and below the value is next to nothing, and its complement one.
template <class T>
QUICK_SSM_DEVICE Sigmoid<AccOf<T>> sigmoid(AccOf<T> x) {
    if constexpr (sizeof(T) == 8) {
        const double e = exp(-(x < -708 ? -708 : x));
        const double value = 1 / (1 + e);
        return {value, e * value};
    } else {
        const float e = exp_of_minus<T>(at_least(x, -87));
        const float value = fast_reciprocal(1 + e);
        return {value, e * value};
    }
}

}  // namespace QUICK_SSM_NAMESPACE
