// The forms of the recurrence h_t = gate_t h_{t-1} + drive_t, y_t = readout_t h_t: what its terms are made of, and where
// their gradients go. A form is all that differs between the plain and the gated scan.
//
// A form gets what was read of one step of one channel, input by input; `inputs(n)` is the n-th of them. The first one
// is that of the gate. What a form keeps of a step for its gradients it finds again in shared memory, as `kept(n)`.
#pragma once

#include "params.cuh"
#include "sigmoid.cuh"
#include "tuning.cuh"

namespace QUICK_SSM_NAMESPACE {

// The parts of the backward pass on a tile, in their order.
enum class Part {
    kScan,     // the segments are scanned in both directions
    kReadout,  // the gradients of the readout
    kState,    // those of the gate and the drive
};

// What is made of the inputs of a step, and what a backward pass keeps of them.
template <class Acc, int kKept>
struct Terms {
    Acc gate, drive, readout;
    Acc kept[kKept ? kKept : 1];
};

// What the gradients of a step are made of: dh_t, z_t = gate_t dh_t and h_{t-1}; or h_t and g_t, the gradient of y_t.
//
// The plain scan: gate a, drive b x, readout c.
template <class T, Width kWidth>
struct Plain {
    using Acc = AccOf<T>;
    using Forward = typename TileOf<T, kWidth, Scan::kForward>::Shape;
    using Backward = typename TileOf<T, kWidth, Scan::kBackward>::Shape;
    enum Input { kA, kX, kB, kC, kInputs };
    // Whether an input is one of the readout; the others are those of gate and drive.
    QUICK_SSM_BOTH static constexpr bool of_readout(int input) { return input == kC; }
    // Which part of the backward pass reads an input from shared memory for the last time.
    QUICK_SSM_BOTH static constexpr Part last_part(int input) {
        return input == kA ? Part::kScan : input == kC ? Part::kReadout : Part::kState;
    }
    static constexpr bool kBias = false;
    static constexpr bool kOutputAgain = false;

    QUICK_SSM_DEVICE static const Operand& operand(const Params& params, int input) {
        return input == kA ? params.a : input == kX ? params.x : input == kB ? params.b : params.c;
    }
    // In the place of what is not read: beyond the end of time the state passes, and nothing comes to it.
    QUICK_SSM_DEVICE static float fill(int input) { return input == kA || input == kC ? 1 : 0; }
    // Whether the forward pass reads an input; that of the gate and the drive it reads anyway.
    QUICK_SSM_DEVICE static bool forward_reads(const Params& params, int input) { return input != kC || params.y; }
    QUICK_SSM_DEVICE static bool backward_reads(const Params& params, int input) {
        return input == kA || (input == kX && (needs_h(params) || params.db)) ||
               (input == kB && (needs_h(params) || params.dx)) || (input == kC && needs_z(params));
    }
    // Whether the states have a part in a gradient that is wanted, and whether z has.
    QUICK_SSM_DEVICE static bool needs_h(const Params& params) { return params.da || params.dc; }
    QUICK_SSM_DEVICE static bool needs_z(const Params& params) {
        return params.dx || params.da || params.db || params.dh0;
    }

    // The inputs of a tile stay at hand for its gradients: nothing is kept, and none of them held in registers.
    static constexpr int kKept = 0;
    static constexpr int kHeld = -1;
    // Whether to make gate and drive again costs less than the registers that keep them.
    static constexpr bool kTermsAgain = true;
    template <class Inputs>
    QUICK_SSM_DEVICE static Terms<Acc, kKept> terms(const Inputs& inputs, Acc) {
        return {inputs(kA), rounded_product(inputs(kB), inputs(kX)), inputs(kC), {}};
    }
    template <class Inputs, class Kept>
    QUICK_SSM_DEVICE static Acc readout(const Inputs& inputs, const Kept&) {
        return inputs(kC);
    }

    // The gradients of the inputs of the readout, from `dc`, that of the readout.
    static constexpr int kReadoutGradients = 1;
    QUICK_SSM_DEVICE static void* readout_gradient(const Params& params, int) { return params.dc; }
    template <class Kept>
    QUICK_SSM_DEVICE static void readout_gradients(const Kept&, Acc dc, Acc (&out)[kReadoutGradients]) {
        out[0] = dc;
    }
    // The gradients of the inputs of gate and drive, from `dgate` and `dh`, those of the gate and the drive.
    static constexpr int kStateGradients = 3;
    QUICK_SSM_DEVICE static void* state_gradient(const Params& params, int n) {
        return n == 0 ? params.da : n == 1 ? params.db : params.dx;
    }
    template <class Inputs, class Kept>
    QUICK_SSM_DEVICE static void state_gradients(const Inputs& inputs, const Kept&, Acc dgate, Acc dh,
                                                 Acc (&out)[kStateGradients]) {
        out[0] = dgate, out[1] = dh * inputs(kX), out[2] = dh * inputs(kB);
    }
};

// The gated scan: gate sigmoid(a + bias), drive sigmoid(d) u, readout silu(ca) cb. Its inputs are the parts of one tensor of
// pre-activations, and their gradients those of another one, wanted all or none.
template <class T, Width kWidth>
struct Gated {
    using Acc = AccOf<T>;
    using Forward = typename TileOf<T, kWidth, Scan::kGatedForward>::Shape;
    using Backward = typename TileOf<T, kWidth, Scan::kGatedBackward>::Shape;
    enum Input { kA, kD, kU, kCa, kCb, kInputs };
    QUICK_SSM_BOTH static constexpr bool of_readout(int input) { return input == kCa || input == kCb; }
    QUICK_SSM_BOTH static constexpr Part last_part(int) { return Part::kScan; }
    static constexpr bool kBias = true;
    static constexpr bool kOutputAgain = true;

    QUICK_SSM_DEVICE static const Operand& operand(const Params& params, int input) {
        return input == kA ? params.a : input == kD ? params.b : input == kU ? params.x : input == kCa ? params.c
                                                                                                      : params.cb;
    }
    QUICK_SSM_DEVICE static float fill(int input) { return input == kA ? static_cast<float>(INFINITY) : 0; }
    QUICK_SSM_DEVICE static bool forward_reads(const Params& params, int input) { return input < kCa || params.y; }
    QUICK_SSM_DEVICE static bool backward_reads(const Params&, int) { return true; }
    QUICK_SSM_DEVICE static bool needs_h(const Params& params) { return params.da || params.d_bias || params.y; }
    QUICK_SSM_DEVICE static bool needs_z(const Params& params) { return params.da || params.d_bias || params.dh0; }

    // What the gradients of gate, drive and readout are multiplied with: to keep it costs less than a sigmoid.
    enum Factor { kOfA, kOfD, kOfU, kOfCa, kOfCb, kKept };
    // The input that stays in registers until the gradients of the readout, as it was read.
    static constexpr int kHeld = kCb;
    static constexpr bool kTermsAgain = false;
    template <class Inputs>
    QUICK_SSM_DEVICE static Terms<Acc, kKept> terms(const Inputs& inputs, Acc bias) {
        const Sigmoid<Acc> a = sigmoid<T>(inputs(kA) + bias), d = sigmoid<T>(inputs(kD)), ca = sigmoid<T>(inputs(kCa));
        const Acc silu = inputs(kCa) * ca.value, u = inputs(kU), cb = inputs(kCb);
        Terms<Acc, kKept> terms = {a.value, d.value * u, silu * cb, {}};
        terms.kept[kOfA] = a.slope();
        terms.kept[kOfD] = u * d.slope();
        terms.kept[kOfU] = d.value;
        // silu(x) = x s(x), silu'(x) = s(x) + silu(x) (1 - s(x))
        terms.kept[kOfCa] = cb * (ca.value + silu * ca.complement);
        terms.kept[kOfCb] = silu;
        return terms;
    }
    template <class Inputs, class Kept>
    QUICK_SSM_DEVICE static Acc readout(const Inputs& inputs, const Kept& kept) {
        return kept(kOfCb) * inputs(kCb);
    }

    static constexpr int kReadoutGradients = 2;
    QUICK_SSM_DEVICE static void* readout_gradient(const Params& params, int n) {
        return n == 0 ? params.dc : params.dcb;
    }
    template <class Kept>
    QUICK_SSM_DEVICE static void readout_gradients(const Kept& kept, Acc dc, Acc (&out)[kReadoutGradients]) {
        out[0] = dc * kept(kOfCa), out[1] = dc * kept(kOfCb);
    }
    static constexpr int kStateGradients = 3;
    QUICK_SSM_DEVICE static void* state_gradient(const Params& params, int n) {
        return n == 0 ? params.da : n == 1 ? params.db : params.dx;
    }
    template <class Inputs, class Kept>
    QUICK_SSM_DEVICE static void state_gradients(const Inputs&, const Kept& kept, Acc dgate, Acc dh,
                                                 Acc (&out)[kStateGradients]) {
        out[0] = dgate * kept(kOfA), out[1] = dh * kept(kOfD), out[2] = dh * kept(kOfU);
    }
};

}  // namespace QUICK_SSM_NAMESPACE
