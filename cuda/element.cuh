// The four element types, the type their states are carried in, and packs of adjacent elements.
#pragma once

#include "platform.cuh"

namespace QUICK_SSM_NAMESPACE {

enum DType : uint32_t { kF32 = 0, kF16 = 1, kBF16 = 2, kF64 = 3 };

struct Half {
    uint16_t bits;
};
using Float = float;
using Double = double;
struct BFloat {
    uint16_t bits;
};

// `Acc` is the accumulation type; `decode` and `encode` convert elements packed in 32-bit words.
template <class T>
struct Element;

template <>
struct Element<float> {
    using Acc = float;
    static constexpr DType kType = kF32;
    QUICK_SSM_DEVICE static float decode(const uint32_t* words, int index) { return bits_to_float(words[index]); }
    template <class From>
    QUICK_SSM_DEVICE static void encode(uint32_t* words, const From* values, int count) {
        QUICK_SSM_UNROLL
        for (int i = 0; i < count; ++i) words[i] = float_to_bits(static_cast<float>(values[i]));
    }
};

template <>
struct Element<Half> {
    using Acc = float;
    static constexpr DType kType = kF16;
    QUICK_SSM_DEVICE static float decode(const uint32_t* words, int index) {
        return half_to_float(static_cast<uint16_t>(words[index / 2] >> (16 * (index % 2))));
    }
    template <class From>
    QUICK_SSM_DEVICE static void encode(uint32_t* words, const From* values, int count) {
        QUICK_SSM_UNROLL
        for (int i = 0; i < count; i += 2) {
            words[i / 2] = floats_to_halves(static_cast<float>(values[i]),
                                            i + 1 < count ? static_cast<float>(values[i + 1]) : 0.0f);
        }
    }
};

template <>
struct Element<BFloat> {
    using Acc = float;
    static constexpr DType kType = kBF16;
    QUICK_SSM_DEVICE static float decode(const uint32_t* words, int index) {
        const uint32_t word = words[index / 2];
        return bits_to_float(index % 2 ? word & 0xffff0000u : word << 16);
    }
    template <class From>
    QUICK_SSM_DEVICE static void encode(uint32_t* words, const From* values, int count) {
        QUICK_SSM_UNROLL
        for (int i = 0; i < count; i += 2) {
            words[i / 2] = floats_to_bfloats(static_cast<float>(values[i]),
                                             i + 1 < count ? static_cast<float>(values[i + 1]) : 0.0f);
        }
    }
};

template <>
struct Element<double> {
    using Acc = double;
    static constexpr DType kType = kF64;
    QUICK_SSM_DEVICE static double decode(const uint32_t* words, int index) {
        return words_to_double(words[2 * index], words[2 * index + 1]);
    }
    template <class From>
    QUICK_SSM_DEVICE static void encode(uint32_t* words, const From* values, int count) {
        QUICK_SSM_UNROLL
        for (int i = 0; i < count; ++i) {
            double_to_words(static_cast<double>(values[i]), words[2 * i], words[2 * i + 1]);
        }
    }
};

template <class T>
using AccOf = typename Element<T>::Acc;

template <class T>
QUICK_SSM_DEVICE AccOf<T> decode_value(T value) {
    if constexpr (sizeof(T) == 2) {
        const uint32_t word = value.bits;
        return Element<T>::decode(&word, 0);
    } else {
        return value;
    }
}

template <class T, class From>
QUICK_SSM_DEVICE T encode_value(From value) {
    if constexpr (sizeof(T) == 2) {
        uint32_t word;
        Element<T>::encode(&word, &value, 1);
        return T{static_cast<uint16_t>(word)};
    } else {
        return static_cast<T>(value);
    }
}

// Adjacent elements as they lie in memory: half the registers of their values for 16-bit types.
template <class T, int kCount>
struct Pack {
    static constexpr int kWords = kCount * static_cast<int>(sizeof(T)) / 4;
    static_assert(kWords * 4 == kCount * static_cast<int>(sizeof(T)), "whole words");
    uint32_t words[kWords];

    QUICK_SSM_DEVICE AccOf<T> operator[](int index) const { return Element<T>::decode(words, index); }

    template <class From>
    QUICK_SSM_DEVICE static Pack of(const From (&values)[kCount]) {
        Pack pack;
        Element<T>::encode(pack.words, values, kCount);
        return pack;
    }
};

// Any of the four types, chosen at run time: for the combinations that have no kernel of their own. Calls `visit` with the
// pointer as one of that type: all that is loaded inside is on its way at the same time, where a choice for each element would
// wait for the one before.
template <class Visit>
QUICK_SSM_DEVICE void with_type(const void* data, uint32_t dtype, const Visit& visit) {
    switch (dtype) {
        case kF32: visit(static_cast<const float*>(data)); break;
        case kF16: visit(static_cast<const Half*>(data)); break;
        case kBF16: visit(static_cast<const BFloat*>(data)); break;
        default: visit(static_cast<const double*>(data)); break;
    }
}

template <class Acc>
QUICK_SSM_DEVICE void store_as(void* data, uint32_t dtype, int64_t index, Acc value) {
    switch (dtype) {
        case kF32: store_value(static_cast<float*>(data) + index, static_cast<float>(value)); break;
        case kF16: store_value(static_cast<Half*>(data) + index, encode_value<Half>(value)); break;
        case kBF16: store_value(static_cast<BFloat*>(data) + index, encode_value<BFloat>(value)); break;
        default: store_value(static_cast<double*>(data) + index, static_cast<double>(value)); break;
    }
}

}  // namespace QUICK_SSM_NAMESPACE
