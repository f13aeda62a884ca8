// The forms of the recurrence h_t = gate_t h_{t-1} + drive_t, y_t = readout_t h_t: what its terms are made of, and where
// their gradients go. A form is all that differs between the plain and the gated scan.
//
// A form gets what was read of one step of one channel, input by input; `inputs(n)` is the n-th of them. The first one
// is that of the gate.
#pragma once

#include "params.cuh"
#include "sigmoid.cuh"
#include "tuning.cuh"

namespace QUICK_SSM_NAMESPACE {

// What the gradients of a step are made of: dh_t, z_t = gate_t dh_t and h_{t-1}; or h_t and g_t, the gradient of y_t.
//
// The plain scan: gate a, drive b x, readout c.
template <class T, Width kWidth>
struct Plain {
    using Acc = AccOf<T>;
    using Forward = typename Tiles<T, kWidth>::Forward;
    using Backward = typename Tiles<T, kWidth>::Backward;
    enum Input { kA, kX, kB, kC, kInputs };
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

    template <class Inputs>
    QUICK_SSM_DEVICE static Acc gate(const Inputs& inputs, Acc) {
        return inputs(kA);
    }
    template <class Inputs>
    QUICK_SSM_DEVICE static Acc drive(const Inputs& inputs) {
        return inputs(kB) * inputs(kX);
    }
    template <class Inputs>
    QUICK_SSM_DEVICE static Acc readout(const Inputs& inputs) {
        return inputs(kC);
    }

    // The gradients of the inputs of the readout, from `dc`, that of the readout.
    static constexpr int kReadoutGradients = 1;
    QUICK_SSM_DEVICE static void* readout_gradient(const Params& params, int) { return params.dc; }
    template <class Inputs>
    QUICK_SSM_DEVICE static void readout_gradients(const Inputs&, Acc dc, Acc (&out)[kReadoutGradients]) {
        out[0] = dc;
    }
    // The gradients of the inputs of gate and drive, from `dgate` and `dh`, those of the gate and the drive.
    static constexpr int kStateGradients = 3;
    QUICK_SSM_DEVICE static void* state_gradient(const Params& params, int n) {
        return n == 0 ? params.da : n == 1 ? params.db : params.dx;
    }
    template <class Inputs>
    QUICK_SSM_DEVICE static void state_gradients(const Inputs& inputs, Acc, Acc dgate, Acc dh,
                                                 Acc (&out)[kStateGradients]) {
        out[0] = dgate, out[1] = dh * inputs(kX), out[2] = dh * inputs(kB);
    }
};

// The gated scan: gate sigmoid(a + bias), drive sigmoid(d) u, readout silu(ca) cb. Its inputs are the parts of one tensor of
// pre-activations, and their gradients those of another one, wanted all or none.
template <class T, Width kWidth>
struct Gated {
    using Acc = AccOf<T>;
    using Forward = typename Tiles<T, kWidth>::GatedForward;
    using Backward = typename Tiles<T, kWidth>::GatedBackward;
    enum Input { kA, kD, kU, kCa, kCb, kInputs };
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

    template <class Inputs>
    QUICK_SSM_DEVICE static Acc gate(const Inputs& inputs, Acc bias) {
        return sigmoid<T>(inputs(kA) + bias).value;
    }
    template <class Inputs>
    QUICK_SSM_DEVICE static Acc drive(const Inputs& inputs) {
        return sigmoid<T>(inputs(kD)).value * inputs(kU);
    }
    template <class Inputs>
    QUICK_SSM_DEVICE static Acc readout(const Inputs& inputs) {
        return inputs(kCa) * sigmoid<T>(inputs(kCa)).value * inputs(kCb);
    }

    static constexpr int kReadoutGradients = 2;
    QUICK_SSM_DEVICE static void* readout_gradient(const Params& params, int n) {
        return n == 0 ? params.dc : params.dcb;
    }
    // silu(x) = x s(x), silu'(x) = s(x) + silu(x) (1 - s(x)).
    template <class Inputs>
    QUICK_SSM_DEVICE static void readout_gradients(const Inputs& inputs, Acc dc, Acc (&out)[kReadoutGradients]) {
        const Sigmoid<Acc> s = sigmoid<T>(inputs(kCa));
        const Acc silu = inputs(kCa) * s.value;
        out[0] = dc * inputs(kCb) * (s.value + silu * s.complement);
        out[1] = dc * silu;
    }
    static constexpr int kStateGradients = 3;
    QUICK_SSM_DEVICE static void* state_gradient(const Params& params, int n) {
        return n == 0 ? params.da : n == 1 ? params.db : params.dx;
    }
    template <class Inputs>
    QUICK_SSM_DEVICE static void state_gradients(const Inputs& inputs, Acc bias, Acc dgate, Acc dh,
                                                 Acc (&out)[kStateGradients]) {
        const Sigmoid<Acc> d = sigmoid<T>(inputs(kD));
        out[0] = dgate * sigmoid<T>(inputs(kA) + bias).slope();
        out[1] = dh * inputs(kU) * d.slope();
        out[2] = dh * d.value;
    }
};

}  // namespace QUICK_SSM_NAMESPACE
