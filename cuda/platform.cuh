// What the kernels need from the machine: thread indices, barriers, streaming loads and stores, tagged
// packets between blocks. One half is for nvcc; the other runs the same kernels on the CPU, under the
// emulation in tests/simt.
#pragma once

#include <math.h>
#include <stdint.h>

#ifndef QUICK_SSM_NAMESPACE
#define QUICK_SSM_NAMESPACE quick_ssm
#endif

// How long a thread leaves the memory system alone between two polls.
#ifndef QUICK_SSM_PAUSE_NANOSECONDS
#define QUICK_SSM_PAUSE_NANOSECONDS 20
#endif

#ifdef __CUDACC__
#define QUICK_SSM_DEVICE __device__ __forceinline__
#define QUICK_SSM_BOTH __host__ __device__ __forceinline__
#define QUICK_SSM_UNROLL _Pragma("unroll")
// Barriers have names so that the emulation can leave one out and show that it is missed.
#define QUICK_SSM_BARRIER(name) __syncthreads()
#define QUICK_SSM_BARRIER_COUNT(name, predicate) __syncthreads_count(predicate)
// The launch gives a block as much shared memory as `Type` takes.
#define QUICK_SSM_SHARED(Type, variable)                                                              \
    extern __shared__ __align__(16) unsigned char quick_ssm_shared_memory[];                          \
    Type& variable = *reinterpret_cast<Type*>(quick_ssm_shared_memory)
#define QUICK_SSM_ENTRY(name, ...)                                                                    \
    extern "C" __global__ void __launch_bounds__(__VA_ARGS__::Tile::kThreads, __VA_ARGS__::Tile::kBlocks) \
        name(const __grid_constant__ QUICK_SSM_NAMESPACE::Params params) {                            \
        __VA_ARGS__::run(params);                                                                     \
    }
#else
#include "simt.hpp"
#define QUICK_SSM_DEVICE inline
#define QUICK_SSM_BOTH inline
#define QUICK_SSM_UNROLL
#define QUICK_SSM_BARRIER(name) simt::barrier(name)
#define QUICK_SSM_BARRIER_COUNT(name, predicate) simt::barrier_count(name, predicate)
#define QUICK_SSM_SHARED(Type, variable) Type& variable = *static_cast<Type*>(simt::shared(sizeof(Type)))
#define QUICK_SSM_ENTRY(name, ...)                                                                    \
    namespace QUICK_SSM_NAMESPACE {                                                                   \
    static void name(const void* params) { __VA_ARGS__::run(*static_cast<const Params*>(params)); }   \
    static const simt::Registration name##_registration(kernel_table(),                               \
                                                        simt::describe<__VA_ARGS__>(#name, name));    \
    }
#endif

namespace QUICK_SSM_NAMESPACE {

// 16 bytes that travel between blocks: two words, each of which carries its own tag, so that only the atomicity of 64-bit
// accesses is assumed and no fence is needed.
struct alignas(8) TaggedWord {
    uint32_t word, tag;
};
struct alignas(16) Packet {
    TaggedWord element[2];
};

// An array in shared memory. The emulation checks its bounds and may switch threads at every access.
template <class T, int kSize>
struct SharedArray {
    T values[kSize];
#ifdef __CUDACC__
    QUICK_SSM_DEVICE T& operator[](int index) { return values[index]; }
#else
    T& operator[](int index) {
        simt::shared_index(index, kSize);
        return values[index];
    }
#endif
};

#ifdef __CUDACC__

QUICK_SSM_DEVICE int thread_index() { return static_cast<int>(threadIdx.x); }
QUICK_SSM_DEVICE uint32_t block_index() { return blockIdx.x; }
QUICK_SSM_DEVICE uint32_t grid_blocks() { return gridDim.x; }

QUICK_SSM_DEVICE float bits_to_float(uint32_t bits) { return __uint_as_float(bits); }
QUICK_SSM_DEVICE uint32_t float_to_bits(float value) { return __float_as_uint(value); }
QUICK_SSM_DEVICE double words_to_double(uint32_t low, uint32_t high) {
    return __hiloint2double(static_cast<int>(high), static_cast<int>(low));
}
QUICK_SSM_DEVICE void double_to_words(double value, uint32_t& low, uint32_t& high) {
    low = static_cast<uint32_t>(__double2loint(value));
    high = static_cast<uint32_t>(__double2hiint(value));
}

// Copies kBytes from global to shared memory, while the thread goes on. It has them after a wait, the other threads of its
// block after a barrier behind that. With kMore the second-level cache gets the 256 bytes around them.
template <int kBytes, bool kMore = false>
QUICK_SSM_DEVICE void copy_async(void* shared, const void* global) {
    static_assert(kBytes == 4 || kBytes == 8 || kBytes == 16, "4, 8 or 16 bytes");
    const unsigned address = static_cast<unsigned>(__cvta_generic_to_shared(shared));
    // only whole 16 bytes can leave no trace in L1
    if constexpr (kBytes < 16) {
        asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" : : "r"(address), "l"(global), "n"(kBytes) : "memory");
    } else if constexpr (kMore) {
        asm volatile("cp.async.cg.shared.global.L2::256B [%0], [%1], 16;" : : "r"(address), "l"(global) : "memory");
    } else {
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" : : "r"(address), "l"(global) : "memory");
    }
}
QUICK_SSM_DEVICE void wait_for_copies() { asm volatile("cp.async.wait_all;" : : : "memory"); }
// Makes a group of the copies since the last group.
QUICK_SSM_DEVICE void group_copies() { asm volatile("cp.async.commit_group;" : : : "memory"); }
// Waits for all groups but the last one.
QUICK_SSM_DEVICE void wait_for_earlier_copies() { asm volatile("cp.async.wait_group 1;" : : : "memory"); }
// Brings the 128 bytes around an address to the second-level cache.
QUICK_SSM_DEVICE void prefetch_line(const void* global) { asm volatile("prefetch.global.L2 [%0];" : : "l"(global)); }

template <int kWords>
QUICK_SSM_DEVICE void load_shared_words(const void* address, uint32_t (&words)[kWords]) {
    static_assert(kWords == 1 || kWords == 2 || kWords == 4, "4, 8 or 16 bytes");
    if constexpr (kWords == 4) {
        const uint4 value = *static_cast<const uint4*>(address);
        words[0] = value.x, words[1] = value.y, words[2] = value.z, words[3] = value.w;
    } else if constexpr (kWords == 2) {
        const uint2 value = *static_cast<const uint2*>(address);
        words[0] = value.x, words[1] = value.y;
    } else {
        words[0] = *static_cast<const unsigned*>(address);
    }
}
template <int kWords>
QUICK_SSM_DEVICE void store_shared_words(void* address, const uint32_t (&words)[kWords]) {
    static_assert(kWords == 1 || kWords == 2 || kWords == 4, "4, 8 or 16 bytes");
    if constexpr (kWords == 4) {
        *static_cast<uint4*>(address) = make_uint4(words[0], words[1], words[2], words[3]);
    } else if constexpr (kWords == 2) {
        *static_cast<uint2*>(address) = make_uint2(words[0], words[1]);
    } else {
        *static_cast<unsigned*>(address) = words[0];
    }
}
template <class T>
QUICK_SSM_DEVICE void store_shared_value(void* address, T value) {
    *static_cast<T*>(address) = value;
}

// Writes where the condition holds: a store that waits for its predicate, where a branch would take four instructions around
// each. Loads may pass it, for no kernel reads what it writes. Without kGather what is written leaves the second-level cache
// first.
#define QUICK_SSM_STORE_IF(cache, type, values, ...)                                                              \
    asm volatile("{ .reg .pred p; setp.ne.s32 p, %0, 0; @p st.global" cache type " [%1], " values "; }"           \
                 :                                                                                              \
                 : "r"(static_cast<int>(condition)), "l"(to), __VA_ARGS__)
#define QUICK_SSM_STORE_FUNCTION(Words, type, values, ...)                                                        \
    template <bool kGather>                                                                                     \
    QUICK_SSM_DEVICE void store_words_if(bool condition, uint32_t* to, Words words) {                           \
        if constexpr (kGather) {                                                                                \
            QUICK_SSM_STORE_IF("", type, values, __VA_ARGS__);                                                  \
        } else {                                                                                                \
            QUICK_SSM_STORE_IF(".cs", type, values, __VA_ARGS__);                                               \
        }                                                                                                       \
    }
QUICK_SSM_STORE_FUNCTION(uint4, ".v4.b32", "{%2, %3, %4, %5}", "r"(words.x), "r"(words.y), "r"(words.z), "r"(words.w))
QUICK_SSM_STORE_FUNCTION(uint2, ".v2.b32", "{%2, %3}", "r"(words.x), "r"(words.y))
QUICK_SSM_STORE_FUNCTION(uint32_t, ".b32", "%2", "r"(words))
#undef QUICK_SSM_STORE_FUNCTION
#undef QUICK_SSM_STORE_IF

// What has been read from shared memory is read again after this, where the compiler would keep it in registers.
QUICK_SSM_DEVICE void read_again() { asm volatile("" : : : "memory"); }

template <bool kGather, int kWords>
QUICK_SSM_DEVICE void store_words_if(bool condition, void* address, const uint32_t (&words)[kWords]) {
    static_assert(kWords == 1 || kWords == 2 || kWords % 4 == 0, "4, 8 or a multiple of 16 bytes");
    uint32_t* to = static_cast<uint32_t*>(address);
    if constexpr (kWords >= 4) {
        QUICK_SSM_UNROLL
        for (int word = 0; word < kWords; word += 4) {
            store_words_if<kGather>(condition, to + word,
                                    make_uint4(words[word], words[word + 1], words[word + 2], words[word + 3]));
        }
    } else if constexpr (kWords == 2) {
        store_words_if<kGather>(condition, to, make_uint2(words[0], words[1]));
    } else {
        store_words_if<kGather>(condition, to, words[0]);
    }
}

template <class T>
QUICK_SSM_DEVICE T load_value(const T* address) {
    return *address;
}
template <class T>
QUICK_SSM_DEVICE void store_value(T* address, T value) {
    *address = value;
}

QUICK_SSM_DEVICE Packet load_packet(const Packet* address) {
    Packet packet;
    // taken apart here: a shift that the compiler moves up to the load would wait for it
    asm volatile("{ .reg .b64 first, second; ld.relaxed.gpu.global.v2.b64 {first, second}, [%4];"
                 " mov.b64 {%0, %1}, first; mov.b64 {%2, %3}, second; }"
                 : "=r"(packet.element[0].word), "=r"(packet.element[0].tag), "=r"(packet.element[1].word),
                   "=r"(packet.element[1].tag)
                 : "l"(address)
                 : "memory");
    return packet;
}
QUICK_SSM_DEVICE void store_packet(Packet* address, const Packet& packet) {
    asm volatile("{ .reg .b64 first, second; mov.b64 first, {%1, %2}; mov.b64 second, {%3, %4};"
                 " st.relaxed.gpu.global.v2.b64 [%0], {first, second}; }"
                 :
                 : "l"(address), "r"(packet.element[0].word), "r"(packet.element[0].tag), "r"(packet.element[1].word),
                   "r"(packet.element[1].tag)
                 : "memory");
}

QUICK_SSM_DEVICE uint32_t atomic_increment(uint32_t* address) { return atomicAdd(address, 1u); }

// Between two polls of a packet that is not there yet.
QUICK_SSM_DEVICE void pause() { __nanosleep(QUICK_SSM_PAUSE_NANOSECONDS); }
QUICK_SSM_DEVICE void sleep_for(uint32_t nanoseconds) { __nanosleep(nanoseconds); }

// 2^x and 1 / x to some units in the last place; what would be smaller than the smallest normal number is zero.
QUICK_SSM_DEVICE float fast_exp2(float x) {
    float value;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(value) : "f"(x));
    return value;
}
QUICK_SSM_DEVICE float fast_reciprocal(float x) {
    float value;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(value) : "f"(x));
    return value;
}
QUICK_SSM_DEVICE float fused_multiply_add(float a, float b, float c) { return __fmaf_rn(a, b, c); }
// Rounded by itself, whatever it is added to: where kernels come to a sum in different ways, but to the same bits.
QUICK_SSM_DEVICE float rounded_product(float a, float b) { return __fmul_rn(a, b); }
QUICK_SSM_DEVICE double rounded_product(double a, double b) { return __dmul_rn(a, b); }
// `value` within bounds; NaN stays NaN.
QUICK_SSM_DEVICE float at_least(float value, float least) {
    asm("max.NaN.f32 %0, %0, %1;" : "+f"(value) : "f"(least));
    return value;
}
QUICK_SSM_DEVICE float at_most(float value, float most) {
    asm("min.NaN.f32 %0, %0, %1;" : "+f"(value) : "f"(most));
    return value;
}

QUICK_SSM_DEVICE float half_to_float(uint16_t bits) {
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
    return value;
}
// The low half of the result comes from `low`. Both roundings are to nearest even.
QUICK_SSM_DEVICE uint32_t floats_to_halves(float low, float high) {
    uint32_t bits;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(high), "f"(low));
    return bits;
}
QUICK_SSM_DEVICE uint32_t floats_to_bfloats(float low, float high) {
    uint32_t bits;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(high), "f"(low));
    return bits;
}

#else

inline int thread_index() { return simt::thread_index(); }
inline uint32_t block_index() { return simt::block_index(); }
inline uint32_t grid_blocks() { return simt::grid_blocks(); }

inline float bits_to_float(uint32_t bits) { return simt::bit_cast<float>(bits); }
inline uint32_t float_to_bits(float value) { return simt::bit_cast<uint32_t>(value); }
inline double words_to_double(uint32_t low, uint32_t high) {
    return simt::bit_cast<double>(static_cast<uint64_t>(high) << 32 | low);
}
inline void double_to_words(double value, uint32_t& low, uint32_t& high) {
    const uint64_t bits = simt::bit_cast<uint64_t>(value);
    low = static_cast<uint32_t>(bits);
    high = static_cast<uint32_t>(bits >> 32);
}

template <int kBytes, bool = false>
void copy_async(void* shared, const void* global) {
    simt::global_access(global, kBytes);
    simt::copy_async(shared, global, kBytes);
}
inline void wait_for_copies() { simt::wait_for_copies(); }
inline void group_copies() { simt::group_copies(); }
inline void wait_for_earlier_copies() { simt::wait_for_earlier_copies(); }
inline void prefetch_line(const void* global) { simt::global_access(global, 1); }

template <int kWords>
void load_shared_words(const void* address, uint32_t (&words)[kWords]) {
    simt::shared_access(address, sizeof words);
    __builtin_memcpy(words, address, sizeof words);
}
template <int kWords>
void store_shared_words(void* address, const uint32_t (&words)[kWords]) {
    simt::shared_access(address, sizeof words);
    __builtin_memcpy(address, words, sizeof words);
}
template <class T>
void store_shared_value(void* address, T value) {
    simt::shared_access(address, sizeof(T));
    __builtin_memcpy(address, &value, sizeof value);
}

inline void read_again() {}
template <bool, int kWords>
void store_words_if(bool condition, void* address, const uint32_t (&words)[kWords]) {
    if (!condition) return;
    simt::global_access(address, sizeof words < 16 ? sizeof words : 16);
    __builtin_memcpy(address, words, sizeof words);
}
template <class T>
T load_value(const T* address) {
    simt::global_access(address, sizeof(T));
    return *address;
}
template <class T>
void store_value(T* address, T value) {
    simt::global_access(address, sizeof(T));
    *address = value;
}

// Nothing orders the two elements of a packet: the emulation lets other threads run between them.
inline Packet load_packet(const Packet* address) {
    Packet packet;
    simt::shared_by_blocks(address, sizeof(Packet));
    const int first = simt::coin() ? 1 : 0;
    packet.element[first] = address->element[first];
    simt::shared_by_blocks(address, sizeof(Packet));
    packet.element[1 - first] = address->element[1 - first];
    return packet;
}
inline void store_packet(Packet* address, const Packet& packet) {
    simt::shared_by_blocks(address, sizeof(Packet));
    const int first = simt::coin() ? 1 : 0;
    address->element[first] = packet.element[first];
    simt::shared_by_blocks(address, sizeof(Packet));
    address->element[1 - first] = packet.element[1 - first];
    simt::progress();
}
inline uint32_t atomic_increment(uint32_t* address) {
    simt::shared_by_blocks(address, sizeof(uint32_t));
    simt::progress();
    return (*address)++;
}
inline void pause() { simt::spin(); }
inline void sleep_for(uint32_t) {}

inline float fast_exp2(float x) { return exp2f(x); }
inline float fast_reciprocal(float x) { return 1.0f / x; }
inline float fused_multiply_add(float a, float b, float c) { return fmaf(a, b, c); }
template <class Acc>
Acc rounded_product(Acc a, Acc b) {
    return a * b;
}
inline float at_least(float value, float least) { return value < least ? least : value; }
inline float at_most(float value, float most) { return value > most ? most : value; }

inline float half_to_float(uint16_t bits) { return simt::half_to_float(bits); }
inline uint32_t floats_to_halves(float low, float high) {
    return simt::float_to_half(low) | static_cast<uint32_t>(simt::float_to_half(high)) << 16;
}
inline uint32_t floats_to_bfloats(float low, float high) {
    return simt::float_to_bfloat(low) | static_cast<uint32_t>(simt::float_to_bfloat(high)) << 16;
}

#endif

}  // namespace QUICK_SSM_NAMESPACE
