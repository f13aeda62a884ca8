// A problem for the kernels, its operands in guarded memory, and what double precision says about it.
#pragma once

#include <stdint.h>

#include <functional>
#include <random>
#include <string>
#include <vector>

#include "../../cuda/params.cuh"
#include "simt.hpp"

namespace selftest {

using namespace quick_ssm;

const char* const kTypeNames[] = {"f32", "f16", "bf16", "f64"};
inline size_t type_bytes(uint32_t dtype) { return dtype == kF64 ? 8 : dtype == kF32 ? 4 : 2; }
inline uint32_t acc_type(uint32_t dtype) { return dtype == kF64 ? kF64 : kF32; }

// Bytes between guards. Everything is NaN until written, the guards stay so.
class Buffer {
public:
    explicit Buffer(size_t bytes = 0) : bytes_(bytes), memory_(bytes + 2 * kGuard, 0xff) {}
    char* data() { return memory_.data() + kGuard; }
    const char* data() const { return memory_.data() + kGuard; }
    size_t size() const { return bytes_; }
    // With the guards around it.
    std::vector<char>& memory() { return memory_; }
    const std::vector<char>& memory() const { return memory_; }
    bool intact() const {
        for (size_t i = 0; i < kGuard; ++i) {
            if (static_cast<unsigned char>(memory_[i]) != 0xff) return false;
            if (static_cast<unsigned char>(memory_[kGuard + bytes_ + i]) != 0xff) return false;
        }
        return true;
    }
    double get(uint32_t dtype, int64_t i) const {
        const char* at = data() + i * static_cast<int64_t>(type_bytes(dtype));
        if (dtype == kF64) return *reinterpret_cast<const double*>(at);
        if (dtype == kF32) return *reinterpret_cast<const float*>(at);
        const uint16_t bits = *reinterpret_cast<const uint16_t*>(at);
        if (dtype == kF16) return simt::half_to_float(bits);
        return simt::bit_cast<float>(static_cast<uint32_t>(bits) << 16);
    }
    void set(uint32_t dtype, int64_t i, double value) {
        char* at = data() + i * static_cast<int64_t>(type_bytes(dtype));
        const float single = static_cast<float>(value);
        if (dtype == kF64) *reinterpret_cast<double*>(at) = value;
        else if (dtype == kF32) *reinterpret_cast<float*>(at) = single;
        else if (dtype == kF16) *reinterpret_cast<uint16_t*>(at) = simt::float_to_half(single);
        else *reinterpret_cast<uint16_t*>(at) = simt::float_to_bfloat(single);
    }

    static constexpr size_t kGuard = 256;

private:
    size_t bytes_;
    std::vector<char> memory_;
};

enum class Layout { kContiguous, kSliced, kTimeMajor, kRepeatedBatch, kRepeatedTime, kRepeatedChannel, kOffset };

struct Tensor {
    Buffer buffer;
    Operand operand{};
    int64_t first = 0;  // element of the buffer
    uint32_t dtype = 0;

    double at(int64_t i, int64_t t, int64_t d) const {
        return buffer.get(dtype, first + i * operand.batch_stride + t * operand.time_stride +
                                     d * operand.channel_stride);
    }
    void allocate(uint32_t type, Layout layout, int64_t batch, int64_t length, int64_t channels);
};

struct Problem {
    uint32_t dtype = kF32;
    int64_t batch = 1, length = 1, channels = 1;
    bool reverse = false;
    Layout layout = Layout::kContiguous;
    bool with_c = true, with_initial = false, with_grad_last = false, with_grad_y = true;
    uint32_t y_dtype = kF32;
    std::vector<int64_t> offsets;  // packed where not empty
    double gate_low = 0.9, gate_high = 1.0;  // a state lasts over many tiles
    uint32_t seed = 1;

    bool packed() const { return !offsets.empty(); }
    int64_t rows() const { return packed() ? static_cast<int64_t>(offsets.size()) - 1 : batch; }
    std::string describe() const;
};

struct Operands {
    Tensor x, a, b, c, grad_y;
    Buffer initial, grad_last, offsets;
    explicit Operands(const Problem& problem);
};

struct Reference {
    std::vector<double> y, last, dx, da, db, dc, dh0;
    Reference(const Problem& problem, const Operands& operands);
};

}  // namespace selftest
